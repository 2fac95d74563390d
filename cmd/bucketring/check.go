// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newCheck(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check KEY",
		Short: "Charge a call of known cost",
		Long: `Charge a call whose cost is known. If every limit of every level of the key admits
it, it is charged to all of them, otherwise to none.

If a limit denies it and the policy lets calls wait for that limit, the call waits in line
until it fits, for up to --max-wait.

Exits with 3 if the call is denied. Use "bucketring reserve" for calls whose cost is
known only at their end. A check does not count towards limits on concurrent calls.`,
		Example: `  bucketring check acme/alice --tier free --input-tokens 1200
  bucketring check acme/alice --input-tokens 900 --output-tokens 100 --model llama-3-70b -o json
  bucketring check acme/evals --input-tokens 5000 --priority batch --max-wait 30s`,
		Args: exactArgs("KEY"),
	}
	c := newAPICall(s)
	c.tierAndModelFlags(cmd)
	c.intFlag(cmd, "input-tokens", "input_tokens", "tokens of the prompt")
	c.intFlag(cmd, "output-tokens", "output_tokens", "tokens of the answer")
	c.commonFlags(cmd)
	c.connectionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c.body["key"] = args[0]
		return c.postMayWait(cmd, "/v1/check")
	}
	return cmd
}

// tierAndModelFlags and commonFlags declare flags of both check and reserve.
func (c *apiCall) tierAndModelFlags(cmd *cobra.Command) {
	c.stringFlag(cmd, "tier", "tier of the full key; empty means the tier that the policy assigns")
	c.stringFlag(cmd, "model", "model that is called; prices depend on it")
}

func (c *apiCall) commonFlags(cmd *cobra.Command) {
	c.intFlag(cmd, "requests", "requests", "number of requests that the call counts as (default 1)")
	c.costFlag(cmd)
	c.stringFlag(cmd, "service-tier", "service tier of the model, such as flex or priority, for which the policy may have a factor")
	cmd.Flags().Var(&fieldFlag{body: c.body, field: fieldMaxWait, kind: "duration", wait: true}, "max-wait", "time that the call may wait in line until it fits, if the policy lets it; 0 means that it does not wait (default: up to --timeout)")
	c.choiceFlag(cmd, "priority", "class of the call: %s; empty means the default of the tier", priorityNames()...)
	c.stringFlag(cmd, "request-id", "id that makes retries of the call idempotent; empty means a random id")
}
