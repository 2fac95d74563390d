// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

func newPolicyExplain(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain KEY",
		Short: "Say which limits apply to a call, and why",
		Long: `Say which rules match a key, which tier it has at each level and why, what the
call would cost there, and which limit binds first on a key that has used nothing.`,
		Example: `  bucketring policy explain acme/alice --input-tokens 1200
  bucketring policy explain acme/alice --policy policy.yaml --model llama-3-70b --max-output-tokens 800 -o json`,
		Args: arguments("KEY"),
	}
	var call policy.Call
	flags := cmd.Flags()
	path := flags.String("policy", "", "policy file or directory (default: the built-in policy)")
	flags.StringVar(&call.Tier, "tier", "", "tier of the full key; empty means that the policy decides")
	flags.StringVar(&call.Model, "model", "", "model that is called")
	flags.Int64Var(&call.Requests, "requests", 1, "requests that the call counts as")
	flags.Int64Var(&call.InputTokens, "input-tokens", 0, "tokens of the prompt")
	flags.Int64Var(&call.OutputTokens, "max-output-tokens", -1, "most output (default: the policy's for the model)")
	flags.Lookup("max-output-tokens").DefValue = "0" // not shown
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := s.policy(*path)
		if err != nil {
			return err
		}
		call.Key = args[0]
		if err := refusal(cmd.Context(), p, call); err != nil {
			return misused(cmd, err, "")
		}
		explanation, err := p.Explain(call)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return s.json(explanation)
		}
		s.printf("%s", explanation)
		return nil
	}
	return cmd
}

// refusal is why a node would not decide on a call, nil if it would.
func refusal(ctx context.Context, p *policy.Policy, call policy.Call) error {
	node := server.New(server.Options{
		Engine: limiter.New(limiter.Options{Catalog: p.Catalog()}),
		Policy: func() server.Policy { return p },
		Now:    func() limiter.Time { return limiter.Time{} },
	})
	question := &pb.ReserveRequest{
		Key: call.Key, Tier: call.Tier, Model: call.Model, Requests: &call.Requests, InputTokens: call.InputTokens,
	}
	if call.OutputTokens >= 0 {
		question.MaxOutputTokens = &call.OutputTokens
	}
	_, err := node.Reserve(ctx, question)
	return err
}
