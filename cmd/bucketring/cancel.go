// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newCancel(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel KEY --request-id ID",
		Short: "Cancel a reservation",
		Long: `Release everything that a reservation holds, because the call did not run. If it
ran, even in part, use "bucketring settle" instead.`,
		Example: `  bucketring cancel acme/alice --request-id r1`,
		Args:    exactArgs("KEY"),
	}
	c := newAPICall(s)
	c.stringFlag(cmd, "request-id", "id of the reservation (required)")
	c.connectionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.body["key"] = args[0]
		return c.postByID(cmd, "/v1/cancel")
	}
	return cmd
}
