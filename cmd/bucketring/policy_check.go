// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/limiter/policy/source/web"
	envoyrules "github.com/bucketring/bucketring/rpc/envoy/config"
)

func newPolicyCheck(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check POLICY...",
		Short: "Check policies, or rules for Envoy",
		Long: `Read a policy like a node does, from a file, all files of a directory, https://... or
postgres://..., and report every problem with its position and the nearest valid word.
Several are checked one by one; --policy names one, too, as it does for "explain" and
"test". Exits with 1 if there is a problem. What is valid but probably not intended is a
warning: spend that is limited for models without a price, prices that look as if they
were for one token, and overrides that have ended.

With --envoy, check the rules of Envoy's rate limit service instead, with one domain
per file, as for --envoy-config of "bucketring serve". A file or directory that is not
read is a problem, too, since envoyproxy/ratelimit may read it.`,
		Example: `  bucketring policy check policy.yaml
  bucketring policy check --policy policy.yaml
  bucketring policy check staging.yaml production.yaml
  bucketring policy check /etc/bucketring/policy.d -o json
  bucketring policy check postgres://reader@db.example.org/limits
  bucketring policy check --envoy rules`,
		Args: cobra.ArbitraryArgs,
	}
	flags := cmd.Flags()
	path := flags.String("policy", "", "policy to check, beside those that are arguments")
	envoy := flags.Bool("envoy", false, "check rules of Envoy's rate limit service instead of a policy")
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *path != "" {
			args = append(args, *path)
		}
		if len(args) == 0 {
			return usageError(cmd, errors.New("missing argument POLICY"), cmd.CommandPath()+" policy.yaml")
		}
		check := s.checkPolicy
		if *envoy {
			check = s.checkEnvoy
		}
		var results []any
		var failed []error
		for _, path := range args {
			result, err := check(path, *output == formatJSON)
			if err != nil && result == nil {
				failed = append(failed, err)
			}
			if result != nil {
				results = append(results, result)
			}
			if err != nil && result != nil {
				failed = append(failed, &commandError{code: exitFailed})
			}
		}
		if *output == formatJSON && len(results) > 0 {
			var all any = results
			if len(args) == 1 {
				all = results[0]
			}
			if err := s.writeJSON(all); err != nil {
				return err
			}
		}
		return s.checksError(len(args), failed)
	}
	return cmd
}

// checksError returns the error of checks of several policies: of one, its own.
func (s *streams) checksError(of int, failed []error) error {
	switch {
	case len(failed) == 0:
		return nil
	case of == 1:
		return failed[0]
	}
	var messages []string
	for _, err := range failed {
		if f, ok := errors.AsType[*commandError](err); !ok || f.cause != nil {
			messages = append(messages, err.Error())
		}
	}
	if len(messages) == 0 {
		return &commandError{code: exitFailed} // the output has the reasons
	}
	return errorWithHint(errors.New(strings.Join(messages, "\n")), "")
}

// checkPolicy checks a policy. The result is for -o json, and nil without it or if the policy
// cannot be read; there is an error whenever the policy cannot be used.
func (s *streams) checkPolicy(path string, asJSON bool) (result any, err error) {
	p, err := s.loadPolicy(path)
	var problems policy.Problems
	switch {
	case err != nil && !errors.As(err, &problems):
		return nil, err
	case asJSON && err != nil:
		return policyChecked{Policy: source.Redacted(path), Problems: problems}, err
	case asJSON:
		return policyChecked{
			Policy: source.Redacted(path), OK: true, Version: p.VersionString(), Digest: p.Digest(), Tiers: p.Tiers(), Warnings: policyWarnings(p),
		}, nil
	case err != nil:
		return nil, s.problemsError(source.Redacted(path), problems)
	}
	for _, w := range policyWarnings(p) {
		s.notef("warning: %s\n", w)
	}
	s.printf("%s is a valid policy: version %s, tiers %s\n", source.Redacted(path), p.VersionString(), strings.Join(p.Tiers(), ", "))
	return nil, nil
}

// policyChecked is what -o json says of a policy.
type policyChecked struct {
	Policy   string          `json:"policy"`
	OK       bool            `json:"ok"`
	Version  string          `json:"version,omitempty"`
	Digest   string          `json:"digest,omitempty"`
	Tiers    []string        `json:"tiers,omitempty"`
	Warnings policy.Problems `json:"warnings,omitempty"`
	Problems policy.Problems `json:"problems,omitempty"`
}

// problemsError prints problems and returns an error that counts them.
func (s *streams) problemsError(path string, problems policy.Problems) error {
	s.notef("%v\n", problems)
	hint := ""
	for _, p := range problems {
		switch {
		case strings.HasPrefix(p.Message, `unknown key "descriptors" in a policy`):
			hint = "bucketring policy check --envoy " + path + ", if these are rules for Envoy"
		case strings.HasPrefix(p.Message, `unknown key "tiers" in a file of rate limits`):
			hint = "bucketring policy check " + path + ", if this is a policy"
		}
	}
	return errorWithHint(fmt.Errorf("%s cannot be used: %s", path, amount.Plural(int64(len(problems)), "problem")), hint)
}

// checkEnvoy is [streams.checkPolicy] for rules of Envoy's rate limit service.
func (s *streams) checkEnvoy(path string, asJSON bool) (result any, err error) {
	var problems envoyrules.Problems
	files, unread := filewatch.ReadAll(path)
	rules, err := filewatch.Parse(files, unread, envoyrules.ParseFiles)
	if err != nil && !errors.As(err, &problems) {
		return nil, err
	}
	switch {
	case asJSON:
		return struct {
			Policy   string              `json:"policy"`
			OK       bool                `json:"ok"`
			Digest   string              `json:"digest,omitempty"`
			Domains  []string            `json:"domains,omitempty"`
			Rules    int                 `json:"rules"`
			Problems envoyrules.Problems `json:"problems,omitempty"`
		}{path, err == nil, rules.Digest(), rules.Domains(), len(rules.Rules()), problems}, err
	case err != nil:
		return nil, s.problemsError(path, problems)
	}
	s.printf("%s has valid rules for Envoy: version %.16s, %s, domains %s\n", path, rules.Digest(), amount.Plural(int64(len(rules.Rules())), "limit"), strings.Join(rules.Domains(), ", "))
	return nil, nil
}

// writeProblems writes problems as JSON.
func (s *streams) writeProblems(problems policy.Problems) error {
	if err := s.writeJSON(struct {
		OK       bool            `json:"ok"`
		Problems policy.Problems `json:"problems"`
	}{false, problems}); err != nil {
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

// loadNamedPolicy is loadPolicy, and says if it is the built-in one.
func (s *streams) loadNamedPolicy(path string) (*policy.Policy, error) {
	if path == "" {
		s.notef("no --policy: this is about the built-in policy, which \"bucketring policy default\" prints\n")
	}
	return s.loadPolicy(path)
}

// insecure returns the setting of the environment.
func (s *streams) insecure() bool {
	text, _ := s.lookupEnv("BUCKETRING_INSECURE")
	insecure, err := strconv.ParseBool(text)
	return err == nil && insecure
}
