// SPDX-License-Identifier: Apache-2.0

// Command bucketring runs a node of the rate limiter and asks one.
//
// Data goes to standard output, everything else to standard error. Exit codes:
// 0 ok, 1 failed, 2 usage, 3 denied, 4 unhealthy.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // calendar windows in images without a zone database
)

func main() {
	s := newStreams(os.Stdout, os.Stderr, os.LookupEnv)
	root := newRoot(s)
	root.SetArgs(os.Args[1:])
	os.Exit(s.report(root.ExecuteContext(context.Background())))
}
