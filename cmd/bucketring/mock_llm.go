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
		Short: "Run a mock model server, to test what is in front of it",
		Long: `Answer calls of the OpenAI and Anthropic APIs, streamed or not, with meaningless
words at a configurable speed. A token is one word. An answer has --output tokens,
or fewer if the caller limits it.

Headers override the flags for one call: X-Mock-Input-Tokens, X-Mock-Output-Tokens,
X-Mock-Cached-Tokens, X-Mock-Reasoning-Tokens, X-Mock-TTFT, X-Mock-Speed,
X-Mock-Fail: 503, X-Mock-Stall-After: 10, X-Mock-Stall: 2s or forever,
X-Mock-Disconnect-After: 10, X-Mock-Error-After: 10, X-Mock-Usage: none, and
X-Mock-Label, which is recorded in the ledger.

GET /mock/ledger returns the tokens that were actually read and generated, per caller
and per call, including interrupted calls. Of a caller's API key it has the beginning of
the hash. ?caller= and ?label= select calls, ?totals=only leaves out the list of calls,
and DELETE /mock/ledger clears it.`,
		Example: `  bucketring mock-llm
  bucketring mock-llm --listen 127.0.0.1:9000 --ttft 200ms --speed 40 --output 50-400
  bucketring mock-llm --fail 429=2%,503=3% --stall 1%@2s --disconnect 1% --seed 7
  curl -sN localhost:9000/v1/chat/completions -d '{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
  curl -s localhost:9000/mock/ledger`,
		Args: exactArgs(),
	}
	var o mockllm.Options
	flags := cmd.Flags()
	listen := flags.String("listen", defaultMock, "address to listen on")
	flags.DurationVar(&o.TTFT, "ttft", 100*time.Millisecond, "time to the first token")
	flags.Float64Var(&o.Speed, "speed", 50, "tokens per second of each choice; 0 means all at once")
	flags.Int64Var(&o.ChunkTokens, "chunk-tokens", 1, "tokens per chunk of a stream")
	output := flags.String("output", "64", "tokens of an answer: 200, 50-400, or ~200 for a long-tailed distribution with that mean")
	flags.Int64Var(&o.BytesPerToken, "bytes-per-token", 4, "bytes of input that count as a token")
	cached := flags.String("cached", "0%", "share of the input that is reported as cached")
	reasoning := flags.String("reasoning", "0%", "share of the output that is reasoning, which is not sent")
	fail := flags.String("fail", "0%", "share of calls that fail: 5% (with 429, 500 and 503 in equal parts) or 429=2%,503=1%")
	stall := flags.String("stall", "", "share of calls that stall at a random token, and for how long, such as 1%@2s")
	disconnect := flags.String("disconnect", "0%", "share of calls whose connection is closed at a random token")
	noUsage := flags.String("no-usage", "0%", "share of answers without usage")
	wrongUsage := flags.String("wrong-usage", "0%", "share of answers with wrong usage")
	flags.Uint64Var(&o.Seed, "seed", 1, "seed of random choices; with the same seed, the same sequence of calls gets the same answers")
	flags.StringVar(&o.CallerHeader, "caller-header", "", "header that identifies the caller (default Authorization or X-Api-Key)")
	flags.StringSliceVar(&o.Models, "models", nil, "models to list (default mock-small,mock-large)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		bad := func(flag string, err error) error {
			return usageError(cmd, fmt.Errorf("--%s: %w", flag, err), "")
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
			{"wrong-usage", *wrongUsage, &o.WrongUsageShare},
		} {
			if *f.into, err = parseShare(f.text); err != nil {
				return bad(f.name, err)
			}
		}
		if o.FailShares, err = parseFailures(*fail); err != nil {
			return bad("fail", err)
		}
		if o.StallShare, o.Stall, err = parseStall(*stall); err != nil {
			return bad("stall", err)
		}
		server, err := mockllm.New(o)
		if err != nil {
			return usageError(cmd, err, "")
		}
		return s.runMock(cmd.Context(), *listen, server)
	}
	return cmd
}

// runMock serves until a signal arrives. Calls in progress are interrupted.
func (s *streams) runMock(ctx context.Context, address string, handler http.Handler) error {
	ctx, stop := onSignals(ctx, func() {})
	defer stop()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return errorWithHint(err, "choose another address with --listen")
		}
		return errorWithHint(err, "give an address such as --listen "+defaultMock)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	s.notef("mock-llm is ready at http://%s\ntry: curl -s %[1]s/v1/chat/completions -d '%s'\n     curl -s %[1]s/mock/ledger\n",
		l.Addr(), `{"model":"mock-small","messages":[{"role":"user","content":"hello"}]}`)
	ended := make(chan error, 1) // one value, when it no longer serves
	go func() { ended <- server.Serve(l) }()
	select {
	case err = <-ended:
		return errorWithHint(fmt.Errorf("serve: %w", err), "")
	case <-ctx.Done():
	}
	err = server.Close()
	if serve := <-ended; !errors.Is(serve, http.ErrServerClosed) {
		err = errors.Join(err, serve)
	}
	return err
}

// parseShare parses 5% or 0.05.
func parseShare(text string) (float64, error) {
	digits, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(digits, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("must be a share from 0%% to 100%%, such as 5%%, got %q", text)
	}
	return v, nil
}

// parseFailures parses 5%, or 429=2%,503=1%.
func parseFailures(text string) (map[int]float64, error) {
	if !strings.Contains(text, "=") {
		v, err := parseShare(text)
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
			return nil, fmt.Errorf("must be a status from 400 to 599 and its share, such as 429=2%%, got %q", one)
		}
		if shares[status], err = parseShare(rest); err != nil {
			return nil, err
		}
	}
	return shares, nil
}

// parseStall parses 1%@2s.
func parseStall(text string) (float64, time.Duration, error) {
	if text == "" {
		return 0, 0, nil
	}
	part, long, _ := strings.Cut(text, "@")
	d, err := time.ParseDuration(long)
	if err != nil || d < 0 {
		return 0, 0, fmt.Errorf("must be a share and a time, such as 1%%@2s, got %q", text)
	}
	v, err := parseShare(part)
	return v, d, err
}
