// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter/policy/scenario"
)

func newPolicyTest(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Test a policy with scenarios in virtual time",
		Long: `Replay scenarios against a policy and compare the decisions with the expected ones.
Time is virtual, so scenarios of a month run at once, and no node is needed. Exits
with 1 if an expectation fails.

  - name: free tier stops the third concurrent stream
    tier: free
    steps:
      - { at: 0s, reserve: 500, id: a, want: allowed }
      - { at: 0s, reserve: 500, id: b, want: allowed }
      - { at: 0s, reserve: 500, id: c, want: denied, by: concurrent }
      - { at: 2s, settle: a, tokens: 1800 }
      - { at: 2s, reserve: 500, id: d, want: allowed }`,
		Example: `  bucketring policy test --policy policy.yaml scenarios.yaml
  bucketring policy test tests/*.yaml -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactArgs("FILE")(cmd, args)
			}
			return nil
		},
	}
	path := cmd.Flags().String("policy", "", "policy file or directory, or https://... or postgres://... (default: the built-in policy)")
	output := addFormat(cmd.Flags())
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		p, err := s.loadPolicy(*path)
		if err != nil {
			return err
		}
		var all scenario.Report
		for _, file := range args {
			text, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("read scenarios: %w", err)
			}
			suite, err := scenario.Parse(file, text)
			if err != nil {
				return err
			}
			report := suite.Run(p)
			all.Results = append(all.Results, report.Results...)
			all.Passed += report.Passed
			all.Failed += report.Failed
		}
		if *output == formatJSON {
			err = s.writeJSON(all)
		} else {
			s.printf("%s", all)
		}
		if err == nil && all.Failed > 0 {
			return &commandError{code: exitFailed}
		}
		return err
	}
	return cmd
}
