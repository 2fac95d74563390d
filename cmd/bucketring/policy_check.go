// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
)

func newPolicyCheck(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Find every mistake in a policy",
		Long: `Read a policy file, or all files of a directory, as a node would, and report
every mistake with its place and the nearest valid word. Exits with 1 if there
is one.`,
		Example: `  bucketring policy check policy.yaml
  bucketring policy check /etc/bucketring/policy.d -o json`,
		Args: arguments("FILE"),
	}
	output := addFormat(cmd.Flags())
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		p, err := s.policy(args[0])
		var problems policy.Problems
		switch {
		case err != nil && !errors.As(err, &problems):
			return err
		case *output == formatJSON:
			return s.checked(p, problems)
		case err != nil:
			s.note("%v\n", problems)
			return failed(fmt.Errorf("%s cannot be used: %d problems", args[0], len(problems)), "")
		}
		s.printf("%s is a good policy: version %s, tiers %s\n", args[0], p.VersionString(), strings.Join(p.Tiers(), ", "))
		return nil
	}
	return cmd
}

// checked prints a policy, or else the problems with it, as JSON.
func (s *streams) checked(p *policy.Policy, problems policy.Problems) error {
	type result struct {
		OK       bool            `json:"ok"`
		Version  string          `json:"version,omitempty"`
		Digest   string          `json:"digest,omitempty"`
		Tiers    []string        `json:"tiers,omitempty"`
		Problems policy.Problems `json:"problems,omitempty"`
	}
	if p != nil {
		return s.json(result{OK: true, Version: p.VersionString(), Digest: p.Digest(), Tiers: p.Tiers()})
	}
	if err := s.json(result{Problems: problems}); err != nil {
		return err
	}
	return &failure{code: exitFailed}
}

// policy reads a policy as a node does; "" is the built-in one.
func (s *streams) policy(path string) (*policy.Policy, error) {
	store, err := source.New(source.Options{Path: path, Catalog: limiter.NewCatalog(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return store.Current(), nil
}
