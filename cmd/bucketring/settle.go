// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newSettle(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "settle KEY --request-id ID",
		Short: "True a reservation up with what the call really used",
		Long: `Tell a node what a reserved call has used so far, in all and not since the last
report, so that a repeated report is harmless. The node charges the difference
to what it holds, and frees the slot.

With --progress the call goes on: the lease is extended and the slot stays held.
Input that is not given counts as reserved, output as last reported.`,
		Example: `  bucketring settle acme/alice --request-id r1 --output-tokens 312
  bucketring settle acme/alice --request-id r1 --output-tokens 120 --progress`,
		Args: arguments("KEY"),
	}
	c := newCaller(s)
	c.text(cmd, "request-id", "id of the reservation (required)")
	c.count(cmd, "input-tokens", "input_tokens", "tokens of the prompt")
	c.count(cmd, "cached-input-tokens", "cached_input_tokens", "how many of them were read from a cache")
	c.count(cmd, "output-tokens", "output_tokens", "tokens of the answer so far, over all choices")
	c.costs(cmd)
	progress := cmd.Flags().Bool("progress", false, "the call goes on")
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.body["key"] = args[0]
		if *progress {
			c.body["final"] = false
		}
		return c.end(cmd, "/v1/settle")
	}
	return cmd
}

// end asks about a reservation, which needs its id.
func (c *caller) end(cmd *cobra.Command, path string) error {
	if c.body["request_id"] == nil {
		return misused(cmd, errors.New("missing flag --request-id: the id that the reservation was made with"), "")
	}
	return c.ask(cmd, path)
}
