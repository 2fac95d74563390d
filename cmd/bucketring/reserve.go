// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newReserve(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reserve KEY",
		Short: "Hold the estimated cost of a call, and a slot, until it is settled",
		Long: `Ask a node to hold the most that a call can cost, and a slot of every limit on
concurrent calls, until "bucketring settle" says what it really used, "bucketring
cancel" gives it back, or its lease runs out.

Where the policy says on_exceed: degrade, the answer may grant less output than
was asked for: send the grant to the model as max_tokens. Exits with 3 when the
call is denied.`,
		Example: `  bucketring reserve acme/alice --input-tokens 900 --max-output-tokens 800 --request-id r1
  bucketring settle  acme/alice --request-id r1 --output-tokens 312`,
		Args: arguments("KEY"),
	}
	c := newCaller(s)
	c.who(cmd)
	c.count(cmd, "input-tokens", "input_tokens", "tokens of the prompt")
	c.count(cmd, "max-output-tokens", "max_output_tokens", "most output of one choice (default: the policy's for the model)")
	c.count(cmd, "output-tokens", "max_output_tokens", "the same as --max-output-tokens")
	c.count(cmd, "min-output-tokens", "min_output_tokens", "least output worth running (default max(256, an eighth of the most))")
	c.count(cmd, "n", "n", "choices (default 1)")
	c.more(cmd)
	cmd.Flags().Var(&fieldFlag{body: c.body, field: "ttl_seconds", kind: "duration"}, "ttl", "lease (default 30s)")
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("output-tokens") && cmd.Flags().Changed("max-output-tokens") {
			return misused(cmd, errors.New("--output-tokens and --max-output-tokens are the same: give one of them"), "")
		}
		c.body["key"] = args[0]
		return c.ask(cmd, "/v1/reserve")
	}
	return cmd
}
