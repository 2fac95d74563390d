// SPDX-License-Identifier: Apache-2.0

// Command bucketring runs nodes of the rate limiter and sends calls to them.
//
// Data goes to standard output, everything else to standard error; with -o json, errors are
// JSON too. Exit codes:
// 0 success, 1 failure, 2 wrong usage, 3 denied, 4 unhealthy.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // for images without a zone database
)

func main() {
	s := newStreams(os.Stdout, os.Stderr, os.LookupEnv)
	s.environ = os.Environ()
	root := newRoot(s)
	args := os.Args[1:]
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(context.Background())
	os.Exit(s.report(err, wantsJSON(cmd, args)))
}
