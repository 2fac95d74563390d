// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

func newPolicyExplain(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain KEY [POLICY...]",
		Short: "Explain which limits apply to a call, and why",
		Long: `Show which rules match a key, which tier each of its levels has and why, which
overrides are in force now or have ended, what the call would cost, and which limit
binds first on a key without usage. Several policies are explained one after the other,
for example to see what a change does; --policy names one, too. Without any, this is
about the built-in policy.`,
		Example: `  bucketring policy explain acme/alice --input-tokens 1200
  bucketring policy explain acme/alice old.yaml new.yaml --input-tokens 1200
  bucketring policy explain acme/alice --policy policy.yaml --model llama-3-70b --max-output-tokens 800 -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			return exactArgs("KEY")(cmd, args[:min(len(args), 1)])
		},
	}
	var call policy.Call
	flags := cmd.Flags()
	path := flags.String("policy", "", "policy file or directory, or https://... or postgres://... (default: the built-in policy)")
	flags.StringVar(&call.Tier, "tier", "", "tier of the full key; empty means the tier that the policy assigns")
	flags.StringVar(&call.Model, "model", "", "model that is called")
	flags.StringVar(&call.ServiceTier, "service-tier", "", "service tier that the model is asked for; empty means the normal price")
	priority := flags.String("priority", "", "class of the call: "+listChoices(priorityNames())+"; empty means the default of the tier")
	withChoices(flags, "priority", priorityNames()...)
	flags.Int64Var(&call.Requests, "requests", 1, "number of requests that the call counts as")
	flags.Int64Var(&call.InputTokens, "input-tokens", 0, "tokens of the prompt")
	flags.Int64Var(&call.OutputTokens, "max-output-tokens", -1, "maximum tokens of the answer (default: that of the policy for the model)")
	flags.Lookup("max-output-tokens").DefValue = "0" // pflag does not show a zero default
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if call.Priority, err = limiter.ParsePriority(*priority); err != nil {
			return usageError(cmd, err, "")
		}
		call.Key, call.Now = args[0], limiter.Time{Wall: time.Now().UnixNano()}
		paths := args[1:]
		if *path != "" || len(paths) == 0 {
			paths = append(paths, *path)
		}
		var explained []any
		for i, path := range paths {
			p, err := s.loadNamedPolicy(path)
			if err != nil {
				return err
			}
			if err := validateCall(cmd.Context(), p, call); err != nil {
				hint := ""
				if call.Tier == "" && p.DefaultTier() == "" && strings.Contains(err.Error(), "no_tier") {
					hint = "--tier TIER, or default_tier in the policy"
				}
				return usageError(cmd, err, hint)
			}
			explanation, err := p.Explain(call)
			if err != nil {
				return err
			}
			if *output == formatJSON {
				explained = append(explained, explanation)
				continue
			}
			if len(paths) > 1 {
				s.printf("%s%s:\n", strings.Repeat("\n", min(i, 1)), source.Redacted(path))
			}
			s.printf("%s", explanation)
		}
		switch {
		case *output != formatJSON:
			return nil
		case len(explained) == 1:
			return s.writeJSON(explained[0])
		}
		return s.writeJSON(explained)
	}
	return cmd
}

// validateCall returns the error with which a node would reject a call; nil if it would
// decide it.
func validateCall(ctx context.Context, p *policy.Policy, call policy.Call) error {
	node := server.New(server.Options{
		Engine: limiter.New(limiter.Options{Catalog: p.Catalog()}),
		Policy: func() server.Policy { return p },
		Now:    func() limiter.Time { return call.Now },
	})
	request := &pb.ReserveRequest{
		Key: call.Key, Tier: call.Tier, Model: call.Model, Requests: &call.Requests, InputTokens: call.InputTokens,
		ServiceTier: call.ServiceTier,
	}
	if call.OutputTokens >= 0 {
		request.MaxOutputTokens = &call.OutputTokens
	}
	_, err := node.Reserve(ctx, request)
	return err
}
