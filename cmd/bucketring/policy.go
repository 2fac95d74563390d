// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter/policy"
)

func newPolicy(s *streams) *cobra.Command {
	cmd := commandGroup(&cobra.Command{
		Use:   "policy",
		Short: "Check, explain and test policies",
		Long: `Work with policy files, which define tiers of limits, assign them to keys, and set
prices. No node is needed. A node reloads its policy when the file changes and on
SIGHUP; "policy check" reports the same problems as a node.`,
		Example: `  bucketring policy default > policy.yaml
  bucketring policy check policy.yaml
  bucketring policy explain acme/alice --input-tokens 1200 --policy policy.yaml
  bucketring policy test --policy policy.yaml scenarios.yaml`,
	})
	for _, c := range []*cobra.Command{newPolicyDefault(s), newPolicyCheck(s), newPolicyExplain(s), newPolicyTest(s), newPolicyPrices(s), newPolicyHashKey(s), newPolicySQL(s), newPolicyImport(s), newPolicyExport(s)} {
		c.Flags().SortFlags = false
		cmd.AddCommand(c)
	}
	return cmd
}

func newPolicyDefault(s *streams) *cobra.Command {
	return &cobra.Command{
		Use:   "default",
		Short: "Print the built-in policy",
		Long:  "Print the policy of a node that is given none. Use it as a start for your own.",
		Example: `  bucketring policy default > policy.yaml
  bucketring dev --policy policy.yaml`,
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			s.printf("%s", policy.DefaultYAML())
			return nil
		},
	}
}
