// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
	envoyrules "github.com/bucketring/bucketring/rpc/envoy/config"
)

func newPolicyCheck(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Find every mistake in a policy or in rules for Envoy",
		Long: `Read a policy file, or all files of a directory, as a node would, and report
every mistake with its place and the nearest valid word. Exits with 1 if there
is one.

With --envoy the file or directory is what --envoy-config of "bucketring serve"
takes: the rules of Envoy's rate limit service, a domain per file.`,
		Example: `  bucketring policy check policy.yaml
  bucketring policy check /etc/bucketring/policy.d -o json
  bucketring policy check --envoy rules`,
		Args: arguments("FILE"),
	}
	envoy := cmd.Flags().Bool("envoy", false, "check rules of Envoy's rate limit service")
	output := addFormat(cmd.Flags())
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if *envoy {
			return s.checkEnvoy(args[0], *output == formatJSON)
		}
		p, err := s.policy(args[0])
		var problems policy.Problems
		switch {
		case err != nil && !errors.As(err, &problems):
			return err
		case *output == formatJSON:
			return s.checked(p, problems)
		case err != nil:
			return s.unusable(args[0], problems)
		}
		s.printf("%s is a good policy: version %s, tiers %s\n", args[0], p.VersionString(), strings.Join(p.Tiers(), ", "))
		return nil
	}
	return cmd
}

// unusable prints what is wrong with files.
func (s *streams) unusable(path string, problems policy.Problems) error {
	s.note("%v\n", problems)
	return failed(fmt.Errorf("%s cannot be used: %d problems", path, len(problems)), "")
}

// checkEnvoy is policy check for rules of Envoy's rate limit service.
func (s *streams) checkEnvoy(path string, asJSON bool) error {
	files, err := filewatch.Read(path)
	if err != nil {
		return err
	}
	rules, err := envoyrules.ParseFiles(files)
	var problems envoyrules.Problems
	switch {
	case err != nil && !errors.As(err, &problems):
		return err
	case asJSON:
		if err := s.json(struct {
			OK       bool                `json:"ok"`
			Digest   string              `json:"digest,omitempty"`
			Domains  []string            `json:"domains,omitempty"`
			Rules    int                 `json:"rules"`
			Problems envoyrules.Problems `json:"problems,omitempty"`
		}{err == nil, rules.Digest(), rules.Domains(), len(rules.Rules()), problems}); err != nil || problems == nil {
			return err
		}
		return &failure{code: exitFailed}
	case err != nil:
		return s.unusable(path, problems)
	}
	limits := "1 limit"
	if n := len(rules.Rules()); n != 1 {
		limits = fmt.Sprintf("%d limits", n)
	}
	s.printf("%s has good rules for Envoy: version %.16s, %s, domains %s\n", path, rules.Digest(), limits, strings.Join(rules.Domains(), ", "))
	return nil
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
