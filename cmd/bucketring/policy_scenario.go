// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter/policy"
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
      - { at: 2s, reserve: 500, id: d, want: allowed }

All keys of scenarios: docs/scenarios.md.`,
		Example: `  bucketring policy test --policy policy.yaml scenarios.yaml
  bucketring policy test --policy policy.yaml scenarios.yaml --run 'free tier' -v
  bucketring policy test --policy policy.yaml tests/*.yaml -o junit > report.xml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactArgs("FILE")(cmd, args)
			}
			return nil
		},
	}
	path := cmd.Flags().String("policy", "", "policy file or directory, or https://... or postgres://... (default: the built-in policy)")
	only := cmd.Flags().String("run", "", "regular expression: only scenarios whose names match")
	verbose := cmd.Flags().BoolP("verbose", "v", false, "show what became of each step")
	output := addFormat(cmd.Flags(), formatJUnit)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		pattern, err := regexp.Compile(*only)
		if err != nil {
			return usageError(cmd, fmt.Errorf("--run must be a regular expression, got %s: %w", text.Quote(*only), err), "")
		}
		report, err := s.runScenarios(*path, args, pattern)
		var problems policy.Problems
		if *output == formatJSON && errors.As(err, &problems) {
			return s.writeProblems(problems)
		}
		if err != nil {
			return err
		}
		if report.Passed+report.Failed == 0 {
			return errorWithHint(errors.New("no scenario was run"), "leave --run out to see the names of all")
		}
		switch {
		case *output == formatJSON:
			err = s.writeJSON(report)
		case *output == formatJUnit:
			var out []byte
			if out, err = report.JUnit(); err == nil {
				s.printf("%s", out)
			}
		case *verbose:
			s.printf("%s", report.Verbose())
		default:
			s.printf("%s", report)
		}
		if err == nil && report.Failed > 0 {
			return &commandError{code: exitFailed}
		}
		return err
	}
	return cmd
}

// runScenarios runs those scenarios of files whose names match.
func (s *streams) runScenarios(path string, files []string, only *regexp.Regexp) (all scenario.Report, err error) {
	p, err := s.loadNamedPolicy(path)
	if err != nil {
		return all, err
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			return all, fmt.Errorf("read scenarios: %w", err)
		}
		suite, err := scenario.Parse(file, source)
		if err != nil {
			return all, err
		}
		report := suite.Run(p, only)
		all.Results = append(all.Results, report.Results...)
		all.Passed += report.Passed
		all.Failed += report.Failed
	}
	return all, nil
}
