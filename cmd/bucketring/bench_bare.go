// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench/target"
)

// newBenchBare returns the command that bench run --overload starts.
func newBenchBare() *cobra.Command {
	return &cobra.Command{
		Use:   "bare ADDRESS",
		Short: "Refuse every call over gRPC",
		Long: `Refuse every check and reserve over gRPC at once, without a limiter. bench run --overload
compares refusals of nodes with those of such processes.`,
		Example: `  bucketring bench bare 127.0.0.1:6471`,
		Args:    exactArgs("ADDRESS"),
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := new(net.ListenConfig).Listen(cmd.Context(), "tcp", args[0])
			if err != nil {
				return usageError(cmd, fmt.Errorf("ADDRESS: %w", err), "")
			}
			ctx, stop := onSignals(cmd.Context(), func() {})
			defer stop()
			return target.ServeBare(ctx, l)
		},
	}
}
