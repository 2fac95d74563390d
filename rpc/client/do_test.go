// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/clienttest"
	"github.com/bucketring/bucketring/rpc/pb"
)

const doRules = `
tiers:
  free:
    concurrent: 2
    limits:
      - { name: requests, dimension: requests, limit: 10, window: 1m }
      - { name: tokens, dimension: tokens, limit: 10_000, window: 1m, on_exceed: degrade }
      - { name: images, dimension: images, limit: 10, window: 1m }
default_tier: free
`

var (
	ofAlice    = client.Query{Key: "acme/alice"}
	doEstimate = client.Estimate{Key: "acme/alice", InputTokens: 900, MaxOutputTokens: new(int64(800))}
	errFailed  = errors.New("the model failed")
)

func output(n int64) client.Usage { return client.Usage{OutputTokens: new(n)} }

// wantCharged fails unless that is used, and nothing is held any more.
func wantCharged(t *testing.T, f *clienttest.Fake, requests, tokens int64) {
	t.Helper()
	for name, want := range map[string]int64{"requests": requests, "tokens": tokens, "concurrent": 0} {
		if got, err := f.Used(ofAlice, name); got != want || err != nil {
			t.Errorf("Used(%s) = %d, %v, want %d", name, got, err, want)
		}
	}
	if held := f.Held(); len(held) > 0 {
		t.Errorf("Held() = %q, want none", held)
	}
}

func TestDo(t *testing.T) {
	for name, tt := range map[string]struct {
		run              func(*client.Grant) (client.Usage, error)
		err              error
		requests, tokens int64
	}{
		"usage":             {func(*client.Grant) (client.Usage, error) { return output(312), nil }, nil, 1, 1212},
		"no usage":          {func(*client.Grant) (client.Usage, error) { return client.Usage{}, nil }, nil, 1, 900},
		"usage of 0":        {func(*client.Grant) (client.Usage, error) { return output(0), nil }, nil, 1, 900},
		"error":             {func(*client.Grant) (client.Usage, error) { return client.Usage{}, errFailed }, errFailed, 0, 0},
		"error, some usage": {func(*client.Grant) (client.Usage, error) { return output(5), errFailed }, errFailed, 1, 905},
		"rejected": {func(*client.Grant) (client.Usage, error) {
			return client.Usage{InputTokens: new(int64(0)), Rejected: true}, errFailed
		}, errFailed, 1, 0},
		"progress": {func(g *client.Grant) (client.Usage, error) {
			g.Progress(output(7))
			g.Progress(output(20))
			return client.Usage{}, nil
		}, nil, 1, 920},
		"progress, then an error": {func(g *client.Grant) (client.Usage, error) {
			g.Progress(output(20))
			return client.Usage{}, errFailed
		}, errFailed, 1, 920},
		"progress, input at the end": {func(g *client.Grant) (client.Usage, error) {
			g.Progress(output(20))
			return client.Usage{InputTokens: new(int64(100))}, nil
		}, nil, 1, 120},
		"progress, changed by its caller": {func(g *client.Grant) (client.Usage, error) {
			u := output(20)
			g.Progress(u)
			*u.OutputTokens = 600
			return client.Usage{}, nil
		}, nil, 1, 920},
	} {
		t.Run(name, func(t *testing.T) {
			f := clienttest.New(t, clienttest.Options{Policy: doRules})
			err := f.Client().Do(t.Context(), doEstimate, func(_ context.Context, g *client.Grant) (client.Usage, error) {
				if g.OutputTokens != 800 || g.Key != "acme/alice" || !slices.Contains(f.Held(), g.RequestID) {
					t.Errorf("grant = %d tokens for %s, id %q; want 800 for acme/alice, and one of %q", g.OutputTokens, g.Key, g.RequestID, f.Held())
				}
				return tt.run(g)
			})
			if err != tt.err { //nolint:errorlint // Do promises the error as it is
				t.Errorf("Do() = %v, want %v", err, tt.err)
			}
			wantCharged(t, f, tt.requests, tt.tokens)
		})
	}
}

func TestDoGrantsLess(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: doRules})
	e := doEstimate
	e.MaxOutputTokens = new(int64(20_000))
	err := f.Client().Do(t.Context(), e, func(_ context.Context, g *client.Grant) (client.Usage, error) {
		if g.Outcome != client.Degraded || g.OutputTokens != 9088 { // the multiple of 16 that fits
			t.Errorf("grant = %s, %d tokens, want degraded, 9088", g.Outcome, g.OutputTokens)
		}
		return output(g.OutputTokens), nil
	})
	if err != nil {
		t.Errorf("Do() = %v, want nil", err)
	}
	wantCharged(t, f, 1, 9988)
}

func never(t *testing.T) func(context.Context, *client.Grant) (client.Usage, error) {
	return func(context.Context, *client.Grant) (client.Usage, error) {
		t.Error("Do() has called the function, want no call")
		return client.Usage{}, nil
	}
}

func TestDoDoesNotRunDeniedCalls(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: doRules})
	e := doEstimate
	e.InputTokens = 10_001
	err := f.Client().Do(t.Context(), e, never(t))
	denied, ok := errors.AsType[*client.DeniedError](err)
	if !ok || denied.Decision.Reason != client.ExceedsCapacity || denied.Decision.Binding.Name != "tokens" {
		t.Errorf("Do() = %v, want a DeniedError with exceeds_capacity of tokens", err)
	}
	wantCharged(t, f, 0, 0)
}

func TestDoDoesNotRunWithoutADecision(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: doRules})
	f.FailNext(clienttest.Reserve, client.ErrUnreachable)
	if err := f.Client().Do(t.Context(), doEstimate, never(t)); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("Do() = %v, want ErrUnreachable", err)
	}
	wantCharged(t, f, 0, 0)
}

// The caller disconnects while the answer to the reserve is on its way.
func TestDoDoesNotRunAfterItsContext(t *testing.T) {
	n := newNode()
	t.Cleanup(n.stop)
	addr, err := n.listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	after := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, o...)
		if _, ok := req.(*pb.ReserveRequest); ok {
			cancel()
		}
		return err
	}
	c, err := client.Dial(client.Options{
		Addrs: []string{addr}, DisableOwnerRouting: true, Timeout: 5 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithUnaryInterceptor(after)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	e := doEstimate
	e.Tier = "free"
	if err := c.Do(ctx, e, never(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("Do() = %v, want context.Canceled", err)
	}
	for _, name := range []string{"requests", "tokens", "concurrent"} {
		if got := used(t, c, "free", name); got != 0 {
			t.Errorf("%s used = %d, want 0", name, got)
		}
	}
}

func TestDoEndsAfterItsContext(t *testing.T) {
	for name, tt := range map[string]struct {
		used             client.Usage
		requests, tokens int64
	}{
		"settled":   {output(312), 1, 1212},
		"cancelled": {client.Usage{}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := clienttest.New(t, clienttest.Options{Policy: doRules})
			ctx, cancel := context.WithCancel(t.Context())
			err := f.Client().Do(ctx, doEstimate, func(ctx context.Context, _ *client.Grant) (client.Usage, error) {
				cancel()
				return tt.used, ctx.Err()
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Do() = %v, want context.Canceled", err)
			}
			wantCharged(t, f, tt.requests, tt.tokens)
		})
	}
}

func TestDoEndsAfterAPanic(t *testing.T) {
	for name, tt := range map[string]struct {
		before           func(*client.Grant)
		requests, tokens int64
	}{
		"cancelled": {func(*client.Grant) {}, 0, 0},
		"settled":   {func(g *client.Grant) { g.Progress(output(20)) }, 1, 920},
	} {
		t.Run(name, func(t *testing.T) {
			f := clienttest.New(t, clienttest.Options{Policy: doRules})
			got := func() (value any) {
				defer func() { value = recover() }()
				_ = f.Client().Do(t.Context(), doEstimate, func(_ context.Context, g *client.Grant) (client.Usage, error) {
					tt.before(g)
					panic("no GPU")
				})
				return "no panic"
			}()
			if got != "no GPU" {
				t.Errorf("Do() panics with %v, want no GPU", got)
			}
			wantCharged(t, f, tt.requests, tt.tokens)
		})
	}
}

// Usage that reaches no node at the end is reported when one is back.
func TestDoReportsLater(t *testing.T) {
	for name, tt := range map[string]struct {
		used             client.Usage
		err              error
		requests, tokens int64
	}{
		"usage":    {output(312), nil, 1, 1212},
		"no usage": {client.Usage{}, errFailed, 1, 0}, // of a cancel that failed, the request stays
	} {
		t.Run(name, func(t *testing.T) {
			f := clienttest.New(t, clienttest.Options{Policy: doRules})
			e := doEstimate
			e.Costs = map[string]int64{"images": 3}
			err := f.Client().Do(t.Context(), e, func(context.Context, *client.Grant) (client.Usage, error) {
				f.SetUnreachable(true)
				return tt.used, tt.err
			})
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("Do() = %v, want %v", err, tt.err)
			}
			f.SetUnreachable(false)
			if err := f.Client().Flush(t.Context()); err != nil {
				t.Fatalf("Flush() = %v", err)
			}
			wantCharged(t, f, tt.requests, tt.tokens)
			images := int64(3)
			if tt.err != nil {
				images = 0
			}
			if got, err := f.Used(ofAlice, "images"); got != images || err != nil {
				t.Errorf("Used(images) = %d, %v, want %d", got, err, images)
			}
		})
	}
}

// A report that a node refuses is an error, beside that of the function.
func TestDoReturnsBothErrors(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: doRules})
	f.FailNext(clienttest.Settle, client.ErrConflict)
	err := f.Client().Do(t.Context(), doEstimate, func(context.Context, *client.Grant) (client.Usage, error) { return output(5), errFailed })
	if !errors.Is(err, errFailed) || !errors.Is(err, client.ErrConflict) {
		t.Errorf("Do() = %v, want the error of the function and ErrConflict", err)
	}
	f.FailNext(clienttest.Settle, client.ErrConflict)
	err = f.Client().Do(t.Context(), doEstimate, func(context.Context, *client.Grant) (client.Usage, error) { return output(5), nil })
	if !errors.Is(err, client.ErrConflict) {
		t.Errorf("Do() = %v, want ErrConflict", err)
	}
}

// The lease is renewed while the function runs, with the progress so far.
func TestDoRenewsTheLease(t *testing.T) {
	for name, tt := range map[string]struct {
		report bool
		want   []any // what is sent after the reserve
	}{
		"progress":    {true, []any{settle(100, false), settle(200, false), settle(200, true)}},
		"no progress": {false, []any{renewal(), renewal(), &pb.CancelRequest{Key: "acme/alice", RequestId: "r1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
				e := doEstimate
				e.RequestID = "r1"
				err := t.c.Do(t.Context(), e, func(_ context.Context, g *client.Grant) (client.Usage, error) {
					for n, pause := range []time.Duration{15 * time.Second, 10 * time.Second} { // renewals are after 10 and 20 s
						if tt.report {
							g.Progress(output(100 * int64(n+1)))
						}
						time.Sleep(pause)
					}
					return client.Usage{}, errFailed
				})
				if !errors.Is(err, errFailed) {
					t.Errorf("Do() = %v, want %v", err, errFailed)
				}
				sent := t.nodes["a"].sent()[1:]
				if len(sent) != len(tt.want) {
					t.Fatalf("node was sent %v, want %v", sent, tt.want)
				}
				for i := range sent {
					wantMessage(t, sent[i], tt.want[i])
				}
			})
		})
	}
}

// A second Do with a request id runs the function again, and charges nothing more.
func TestDoAgain(t *testing.T) {
	f := clienttest.New(t, clienttest.Options{Policy: doRules})
	e := doEstimate
	e.RequestID = "r1"
	for _, tt := range []struct {
		used client.Usage
		want error
	}{{output(312), nil}, {output(312), nil}, {output(500), client.ErrConflict}} {
		ran := false
		err := f.Client().Do(t.Context(), e, func(context.Context, *client.Grant) (client.Usage, error) {
			ran = true
			return tt.used, nil
		})
		if !ran || !errors.Is(err, tt.want) {
			t.Errorf("Do() with %d tokens = %v, ran %v, want %v, true", *tt.used.OutputTokens, err, ran, tt.want)
		}
		wantCharged(t, f, 1, 1212)
	}
}
