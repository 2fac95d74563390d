// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newCancel(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel KEY --request-id ID",
		Short: "Give everything back that a reservation holds",
		Long: `Give everything back that a reservation holds, because the call never ran. A call
that ran is settled, even if it failed half-way.`,
		Example: `  bucketring cancel acme/alice --request-id r1`,
		Args:    arguments("KEY"),
	}
	c := newCaller(s)
	c.text(cmd, "request-id", "id of the reservation (required)")
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.body["key"] = args[0]
		return c.end(cmd, "/v1/cancel")
	}
	return cmd
}
