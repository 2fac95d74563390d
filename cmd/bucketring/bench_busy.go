// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench/local"
)

// newBenchBusy returns the command that bench run --busy starts.
func newBenchBusy() *cobra.Command {
	return &cobra.Command{
		Use:     "busy DURATION",
		Short:   "Use one processor for a time and do nothing",
		Long:    `Use one processor for a time and do nothing. bench run --busy starts such processes.`,
		Example: `  bucketring bench busy 10s`,
		Args:    exactArgs("DURATION"),
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			length, err := time.ParseDuration(args[0])
			if err != nil || length < 0 {
				return usageError(cmd, fmt.Errorf("DURATION: must be a time such as 10s, got %q", args[0]), "")
			}
			local.BusyLoop(length)
			return nil
		},
	}
}
