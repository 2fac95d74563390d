// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/mockllm"
)

const defaultMock = "127.0.0.1:9000"

func newMockLLM(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mock-llm",
		Short: "Run a model server without a model, to try and to measure what is in front of it",
		Long: `Answer as OpenAI's and Anthropic's servers do, streamed and not, with words that
mean nothing, at a speed that is told. A token is one word. Answers end after
--output tokens, or where the caller's bound cuts them.

One call is changed by its headers: X-Mock-Input-Tokens, X-Mock-Output-Tokens,
X-Mock-Cached-Tokens, X-Mock-Reasoning-Tokens, X-Mock-TTFT, X-Mock-Speed,
X-Mock-Fail: 503, X-Mock-Stall-After: 10, X-Mock-Stall: 2s or forever,
X-Mock-Disconnect-After: 10, X-Mock-Error-After: 10, X-Mock-Usage: none, and
X-Mock-Label, which stands in the ledger.

GET /mock/ledger has what was really read and generated, by caller and call by
call, those that were broken off included; ?caller= and ?label= choose calls,
?totals=only leaves them out, and DELETE /mock/ledger forgets them.`,
		Example: `  bucketring mock-llm
  bucketring mock-llm --listen 127.0.0.1:9000 --ttft 200ms --speed 40 --output 50-400
  bucketring mock-llm --fail 429=2%,503=3% --stall 1%@2s --disconnect 1% --seed 7
  curl -sN localhost:9000/v1/chat/completions -d '{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
  curl -s localhost:9000/mock/ledger`,
		Args: arguments(),
	}
	var o mockllm.Options
	flags := cmd.Flags()
	listen := flags.String("listen", defaultMock, "address")
	flags.DurationVar(&o.TTFT, "ttft", 100*time.Millisecond, "time to the first token")
	flags.Float64Var(&o.Speed, "speed", 50, "tokens per second of each choice; 0: all at once")
	flags.Int64Var(&o.ChunkTokens, "chunk-tokens", 1, "tokens in one piece of a stream")
	output := flags.String("output", "64", "tokens of an answer: 200, 50-400, or ~200 for a mean with a long tail")
	flags.Int64Var(&o.BytesPerToken, "bytes-per-token", 4, "how input is counted")
	cached := flags.String("cached", "0%", "share of the input that a cache had")
	reasoning := flags.String("reasoning", "0%", "share of the output that is reasoning, and not shown")
	fail := flags.String("fail", "0%", "share of calls that are refused: 5% with 429, 500 and 503 alike, or 429=2%,503=1%")
	stall := flags.String("stall", "", "share of calls that stand still somewhere, and how long, as 1%@2s")
	disconnect := flags.String("disconnect", "0%", "share of calls whose connection is broken somewhere")
	noUsage := flags.String("no-usage", "0%", "share of answers without a usage block")
	invalidUsage := flags.String("invalid-usage", "0%", "share of responses with usage that cannot be true")
	flags.Uint64Var(&o.Seed, "seed", 1, "the same seed gives the same calls in the same order the same answers")
	flags.StringVar(&o.CallerHeader, "caller-header", "", "header that says who calls (default Authorization, or X-Api-Key)")
	flags.StringSliceVar(&o.Models, "models", nil, "models that are listed (default mock-small,mock-large)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		bad := func(flag string, err error) error {
			return misused(cmd, fmt.Errorf("--%s: %w", flag, err), "")
		}
		var err error
		if o.Output, err = mockllm.ParseLength(*output); err != nil {
			return bad("output", err)
		}
		for _, f := range []struct {
			name, text string
			into       *float64
		}{
			{"cached", *cached, &o.CachedShare},
			{"reasoning", *reasoning, &o.ReasoningShare},
			{"disconnect", *disconnect, &o.DisconnectShare},
			{"no-usage", *noUsage, &o.NoUsageShare},
			{"invalid-usage", *invalidUsage, &o.InvalidUsageShare},
		} {
			if *f.into, err = share(f.text); err != nil {
				return bad(f.name, err)
			}
		}
		if o.FailShares, err = failures(*fail); err != nil {
			return bad("fail", err)
		}
		if o.StallShare, o.Stall, err = stalls(*stall); err != nil {
			return bad("stall", err)
		}
		server, err := mockllm.New(o)
		if err != nil {
			return misused(cmd, err, "")
		}
		return s.runMock(cmd.Context(), *listen, server)
	}
	return cmd
}

// runMock serves until a signal ends it. Calls under way are broken off.
func (s *streams) runMock(ctx context.Context, address string, handler http.Handler) error {
	ctx, stop := onSignals(ctx, func() {})
	defer stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return failed(err, "is something else running there? choose another address with --listen")
		}
		return failed(err, "give an address such as --listen "+defaultMock)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	s.note("mock-llm is ready at http://%s\ntry: curl -s %[1]s/v1/chat/completions -d '%s'\n     curl -s %[1]s/mock/ledger\n",
		l.Addr(), `{"model":"mock-small","messages":[{"role":"user","content":"hello"}]}`)
	ended := make(chan error, 1) // one value, when it no longer serves
	go func() { ended <- server.Serve(l) }()
	select {
	case err = <-ended:
		return failed(fmt.Errorf("serve: %w", err), "")
	case <-ctx.Done():
	}
	err = server.Close()
	if serve := <-ended; !errors.Is(serve, http.ErrServerClosed) {
		err = errors.Join(err, serve)
	}
	return err
}

// share reads 5% or 0.05.
func share(text string) (float64, error) {
	digits, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(digits, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("must be a share from 0%% to 100%%, as 5%%, got %q", text)
	}
	return v, nil
}

// failures reads 5%, or 429=2%,503=1%.
func failures(text string) (map[int]float64, error) {
	if !strings.Contains(text, "=") {
		v, err := share(text)
		if err != nil || v == 0 {
			return nil, err
		}
		return map[int]float64{429: v / 3, 500: v / 3, 503: v / 3}, nil
	}
	shares := make(map[int]float64)
	for one := range strings.SplitSeq(text, ",") {
		code, rest, _ := strings.Cut(one, "=")
		status, err := strconv.Atoi(strings.TrimSpace(code))
		if err != nil || status < 400 || status > 599 {
			return nil, fmt.Errorf("must be a status and its share, as 429=2%%, got %q", one)
		}
		if shares[status], err = share(rest); err != nil {
			return nil, err
		}
	}
	return shares, nil
}

// stalls reads 1%@2s.
func stalls(text string) (float64, time.Duration, error) {
	if text == "" {
		return 0, 0, nil
	}
	part, long, _ := strings.Cut(text, "@")
	d, err := time.ParseDuration(long)
	if err != nil || d < 0 {
		return 0, 0, fmt.Errorf("must be a share and a time, as 1%%@2s, got %q", text)
	}
	v, err := share(part)
	return v, d, err
}
