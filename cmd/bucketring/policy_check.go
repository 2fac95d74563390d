// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/limiter/policy/source/web"
	envoyrules "github.com/bucketring/bucketring/rpc/envoy/config"
)

func newPolicyCheck(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check POLICY",
		Short: "Check a policy, or rules for Envoy",
		Long: `Read a policy like a node does, from a file, all files of a directory, https://... or
postgres://..., and report every problem with its position and the nearest valid word.
Exits with 1 if there is a problem. What is valid but probably not intended is a
warning: spend that is limited for models without a price, and overrides that have
ended.

With --envoy, check the rules of Envoy's rate limit service instead, with one domain
per file, as for --envoy-config of "bucketring serve". A file or directory that is not
read is a problem, too, since envoyproxy/ratelimit may read it.`,
		Example: `  bucketring policy check policy.yaml
  bucketring policy check /etc/bucketring/policy.d -o json
  bucketring policy check postgres://reader@db.example.org/limits
  bucketring policy check --envoy rules`,
		Args: exactArgs("POLICY"),
	}
	envoy := cmd.Flags().Bool("envoy", false, "check rules of Envoy's rate limit service instead of a policy")
	output := addFormat(cmd.Flags())
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if *envoy {
			return s.checkEnvoy(args[0], *output == formatJSON)
		}
		p, err := s.loadPolicy(args[0])
		var problems policy.Problems
		switch {
		case err != nil && !errors.As(err, &problems):
			return err
		case *output == formatJSON:
			return s.writePolicyCheck(p, problems)
		case err != nil:
			return s.problemsError(source.Redacted(args[0]), problems)
		}
		for _, w := range policyWarnings(p) {
			s.notef("warning: %s\n", w)
		}
		s.printf("%s is a valid policy: version %s, tiers %s\n", source.Redacted(args[0]), p.VersionString(), strings.Join(p.Tiers(), ", "))
		return nil
	}
	return cmd
}

// problemsError prints problems and returns an error that counts them.
func (s *streams) problemsError(path string, problems policy.Problems) error {
	s.notef("%v\n", problems)
	return errorWithHint(fmt.Errorf("%s cannot be used: %d problems", path, len(problems)), "")
}

// checkEnvoy checks rules of Envoy's rate limit service.
func (s *streams) checkEnvoy(path string, asJSON bool) error {
	var unread, problems envoyrules.Problems
	files, err := filewatch.ReadAll(path)
	if err != nil && !errors.As(err, &unread) {
		return err
	}
	rules, err := envoyrules.ParseFiles(files)
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	if problems = append(unread, problems...); problems != nil {
		rules, err = nil, problems
	}
	switch {
	case asJSON:
		if err := s.writeJSON(struct {
			OK       bool                `json:"ok"`
			Digest   string              `json:"digest,omitempty"`
			Domains  []string            `json:"domains,omitempty"`
			Rules    int                 `json:"rules"`
			Problems envoyrules.Problems `json:"problems,omitempty"`
		}{err == nil, rules.Digest(), rules.Domains(), len(rules.Rules()), problems}); err != nil || problems == nil {
			return err
		}
		return &commandError{code: exitFailed}
	case err != nil:
		return s.problemsError(path, problems)
	}
	limits := "1 limit"
	if n := len(rules.Rules()); n != 1 {
		limits = fmt.Sprintf("%d limits", n)
	}
	s.printf("%s has valid rules for Envoy: version %.16s, %s, domains %s\n", path, rules.Digest(), limits, strings.Join(rules.Domains(), ", "))
	return nil
}

// writePolicyCheck writes, as JSON, that a policy is valid, or its problems.
func (s *streams) writePolicyCheck(p *policy.Policy, problems policy.Problems) error {
	type result struct {
		OK       bool            `json:"ok"`
		Version  string          `json:"version,omitempty"`
		Digest   string          `json:"digest,omitempty"`
		Tiers    []string        `json:"tiers,omitempty"`
		Problems policy.Problems `json:"problems,omitempty"`
		Warnings policy.Problems `json:"warnings,omitempty"`
	}
	if p != nil {
		return s.writeJSON(result{OK: true, Version: p.VersionString(), Digest: p.Digest(), Tiers: p.Tiers(), Warnings: policyWarnings(p)})
	}
	if err := s.writeJSON(result{Problems: problems}); err != nil {
		return err
	}
	return &commandError{code: exitFailed}
}

// policyWarnings returns what is probably not intended, now.
func policyWarnings(p *policy.Policy) policy.Problems {
	return append(p.Warnings(), p.Ended(time.Now())...)
}

// loadPolicy loads a policy like a node does, with the settings of the environment; "" is
// the built-in policy.
func (s *streams) loadPolicy(path string) (*policy.Policy, error) {
	env := func(name string) string {
		value, _ := s.lookupEnv("BUCKETRING_POLICY_" + name)
		return value
	}
	return source.Load(source.Options{
		Path: path, Catalog: limiter.NewCatalog(), Insecure: s.insecure(), TokenFile: env("TOKEN_FILE"),
		TLS: web.TLSFiles{CA: env("CA_FILE"), Cert: env("CERT_FILE"), Key: env("KEY_FILE")},
	})
}

// insecure returns the setting of the environment.
func (s *streams) insecure() bool {
	text, _ := s.lookupEnv("BUCKETRING_INSECURE")
	insecure, err := strconv.ParseBool(text)
	return err == nil && insecure
}
