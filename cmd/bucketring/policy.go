// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter/policy"
)

func newPolicy(s *streams) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "policy",
		Short: "Check, explain and test policies, without a node",
		Long: `Work with policy files: tiers of limits, who has which, and what models cost.
No node is needed. A node that runs reloads its policy when the file is saved,
and on SIGHUP; what it would refuse, "policy check" refuses.`,
		Example: `  bucketring policy default > policy.yaml
  bucketring policy check policy.yaml
  bucketring policy explain acme/alice --input-tokens 1200 --policy policy.yaml
  bucketring policy test --policy policy.yaml scenarios.yaml`,
	})
	for _, c := range []*cobra.Command{newPolicyDefault(s), newPolicyCheck(s), newPolicyExplain(s), newPolicyTest(s), newPolicyHashKey(s)} {
		c.Flags().SortFlags = false
		cmd.AddCommand(c)
	}
	return cmd
}

func newPolicyDefault(s *streams) *cobra.Command {
	return &cobra.Command{
		Use:   "default",
		Short: "Print the built-in policy",
		Long:  "Print the policy that a node has when it is given none: a file to start from.",
		Example: `  bucketring policy default > policy.yaml
  bucketring dev --policy policy.yaml`,
		Args: arguments(),
		RunE: func(*cobra.Command, []string) error {
			s.printf("%s", policy.DefaultYAML())
			return nil
		},
	}
}
