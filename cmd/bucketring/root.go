// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
)

func newRoot(s *streams) *cobra.Command {
	root := commandGroup(&cobra.Command{
		Use:   "bucketring",
		Short: "A rate limiter for AI inference: requests, tokens, dollars and concurrent calls",
		Long: `bucketring limits calls to AI models by requests, tokens, dollars and concurrent
calls. A call is charged to all of its limits, or denied and charged to none.

Start with "bucketring dev". It needs no configuration.

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 denied, 4 unhealthy.`,
		Example: `  bucketring dev
  bucketring check acme/alice --tier free --input-tokens 1200
  bucketring status
  bucketring serve --config node.yaml --policy policy.yaml --data /var/lib/bucketring`,
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.DisableDefaultCmd = true // newCompletion replaces it
	root.PersistentFlags().SortFlags = false

	const run, ask, policies, measure = "run", "ask", "policies", "measure"
	root.AddGroup(
		&cobra.Group{ID: run, Title: "Run a node:"},
		&cobra.Group{ID: ask, Title: "Call a node:"},
		&cobra.Group{ID: policies, Title: "Write policies:"},
		&cobra.Group{ID: measure, Title: "Measure:"},
	)
	add := func(id string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = id
			c.Flags().SortFlags = false
			root.AddCommand(c)
		}
	}
	add(run, newDev(s), newServe(s), newProxy(s), newHealth(s), newForget(s), newCerts(s))
	add(ask, newCheck(s), newReserve(s), newSettle(s), newCancel(s), newKeys(s), newTop(s), newStatus(s))
	add(policies, newPolicy(s))
	add(measure, newBench(s), newMockLLM(s))
	add("", newVersion(s), newCompletion(s))
	return root
}
