// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newCheck(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check KEY",
		Short: "Charge a known cost at once, or be denied",
		Long: `Ask a node to charge a call whose cost is known, at once and for good. Every
limit of every level of the key admits the call, or it is charged to none.

Exits with 3 when the call is denied. "bucketring reserve" is for calls whose
cost is known only when they end; check leaves limits on concurrent calls alone.`,
		Example: `  bucketring check acme/alice --tier free --input-tokens 1200
  bucketring check acme/alice --input-tokens 900 --output-tokens 100 --model llama-3-70b -o json`,
		Args: arguments("KEY"),
	}
	c := newCaller(s)
	c.who(cmd)
	c.count(cmd, "input-tokens", "input_tokens", "tokens of the prompt")
	c.count(cmd, "output-tokens", "output_tokens", "tokens of the answer")
	c.more(cmd)
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.body["key"] = args[0]
		return c.ask(cmd, "/v1/check")
	}
	return cmd
}

// who and more declare what check and reserve both take.
func (c *caller) who(cmd *cobra.Command) {
	c.text(cmd, "tier", "tier of the full key; empty means that the policy decides")
	c.text(cmd, "model", "model that is called; it decides on prices")
}

func (c *caller) more(cmd *cobra.Command) {
	c.count(cmd, "requests", "requests", "requests that this counts as (default 1)")
	c.costs(cmd)
	c.text(cmd, "request-id", "makes the call idempotent; empty means that the node makes one")
}
