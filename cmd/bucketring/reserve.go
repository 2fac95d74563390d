// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newReserve(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reserve KEY",
		Short: "Reserve the estimated cost of a call",
		Long: `Reserve the estimated cost of a call, and a slot of every limit on concurrent calls,
until "bucketring settle" reports its usage, "bucketring cancel" releases it, or its
lease expires.

If a limit denies the call and the policy lets calls wait for that limit, it waits in line
until it fits, for up to --max-wait.

If the policy has on_exceed: degrade, the answer may grant less output than was asked
for: send the grant to the model as max_tokens. Exits with 3 if the call is denied.`,
		Example: `  bucketring reserve acme/alice --input-tokens 900 --max-output-tokens 800 --request-id r1
  bucketring settle  acme/alice --request-id r1 --output-tokens 312
  bucketring reserve acme/evals --input-tokens 900 --max-output-tokens 800 --priority batch --max-wait 1m`,
		Args: exactArgs("KEY"),
	}
	c := newAPICall(s)
	c.tierAndModelFlags(cmd)
	c.intFlag(cmd, "input-tokens", "input_tokens", "tokens of the prompt")
	c.intFlag(cmd, "max-output-tokens", "max_output_tokens", "maximum tokens of one choice (default: that of the policy for the model)")
	c.intFlag(cmd, "output-tokens", "max_output_tokens", "same as --max-output-tokens")
	c.intFlag(cmd, "min-output-tokens", "min_output_tokens", "minimum grant; with less the call is denied (default: the larger of 256 and an eighth of --max-output-tokens)")
	c.intFlag(cmd, "n", "n", "number of choices (default 1)")
	c.commonFlags(cmd)
	cmd.Flags().Var(&fieldFlag{body: c.body, field: "ttl_seconds", kind: "duration"}, "ttl", "lease of the reservation (default 30s)")
	c.connectionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("output-tokens") && cmd.Flags().Changed("max-output-tokens") {
			return usageError(cmd, errors.New("--output-tokens and --max-output-tokens are the same: give one of them"), "")
		}
		c.body["key"] = args[0]
		return c.postMayWait(cmd, "/v1/reserve")
	}
	return cmd
}
