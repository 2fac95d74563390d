// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newSettle(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "settle KEY --request-id ID",
		Short: "Settle a reservation with the usage of the call",
		Long: `Report the usage of a reserved call. Usage is cumulative, so a repeated report changes
nothing. The node charges the difference to what it holds, and frees the slot.

With --progress the call continues: the lease is extended and the slot stays held.
Without --input-tokens the reserved input is charged, without --output-tokens the
output that was reported last.`,
		Example: `  bucketring settle acme/alice --request-id r1 --output-tokens 312
  bucketring settle acme/alice --request-id r1 --output-tokens 120 --progress`,
		Args: exactArgs("KEY"),
	}
	c := newAPICall(s)
	c.stringFlag(cmd, "request-id", "id of the reservation (required)")
	c.intFlag(cmd, "input-tokens", "input_tokens", "tokens of the prompt")
	c.intFlag(cmd, "cached-input-tokens", "cached_input_tokens", "tokens of the prompt that were read from a cache")
	c.intFlag(cmd, "cache-write-tokens", "cache_write_tokens", "tokens of the prompt that were written to a cache, for five minutes or an unknown time")
	c.intFlag(cmd, "cache-write-1h-tokens", "cache_write_1h_tokens", "tokens of the prompt that were written to a cache for an hour")
	c.intFlag(cmd, "output-tokens", "output_tokens", "tokens of the answer so far, of all choices")
	c.intFlag(cmd, "images", "images", "images for which the policy may have a fee")
	c.intFlag(cmd, "searches", "searches", "searches for which the policy may have a fee")
	c.stringFlag(cmd, "service-tier", "service tier that the model gave (default: that of the reserve, without a discount)")
	c.costFlag(cmd)
	progress := cmd.Flags().Bool("progress", false, "report progress: the call continues")
	c.connectionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.body["key"] = args[0]
		if *progress {
			c.body["final"] = false
		}
		return c.postByID(cmd, "/v1/settle")
	}
	return cmd
}

// postByID posts a request about a reservation, which needs its id.
func (c *apiCall) postByID(cmd *cobra.Command, path string) error {
	if c.body["request_id"] == nil {
		return usageError(cmd, errors.New("missing flag --request-id: the id of the reservation"), "")
	}
	return c.post(cmd, path)
}
