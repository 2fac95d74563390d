// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench/target"
)

func newBenchEcho() *cobra.Command {
	return &cobra.Command{
		Use:   "echo ADDRESS",
		Short: "Answer calls of the target echo: without a limiter",
		Long: `Answer calls of the target echo: over gRPC, with as many bytes as a node answers, and
without a limiter: the most that one call per check can reach on this machine.`,
		Example: `  bucketring bench echo 127.0.0.1:6480
  bucketring bench run --target grpc:127.0.0.1:6471 --vs echo:127.0.0.1:6480 --callers 128`,
		Args: exactArgs("ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := new(net.ListenConfig).Listen(cmd.Context(), "tcp", args[0])
			if err != nil {
				return usageError(cmd, fmt.Errorf("ADDRESS: %w", err), "")
			}
			ctx, stop := onSignals(cmd.Context(), func() {})
			defer stop()
			return target.ServeEcho(ctx, l)
		},
	}
}
