// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// slow delays and reorders requests to a limiter.
type slow struct {
	requests chan func()
	wait     sync.WaitGroup
}

func newSlow() *slow {
	s := &slow{requests: make(chan func(), 16)} // fewer than callers
	for range 8 {
		s.wait.Go(func() {
			for ask := range s.requests {
				jitter()
				ask()
			}
		})
	}
	return s
}

func jitter() {
	for range rand.IntN(50) {
		runtime.Gosched()
	}
}

// do runs ask with a delay before and after.
func (s *slow) do(ask func()) {
	done := make(chan struct{})
	s.requests <- func() {
		ask()
		close(done)
	}
	<-done
	jitter()
}

// Real clocks and 100 goroutines.
func TestRightLimiterUnderLoad(t *testing.T) {
	limits := []audit.Limit{
		{Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: 2000, Window: time.Second, Burst: 50},
		{Dimension: audit.Tokens, Amount: 40_000},
		{Dimension: audit.InputTokens, Algorithm: audit.SlidingWindow, Amount: 4000, Window: 20 * time.Millisecond, ReleaseDelay: -1},
		{Dimension: audit.OutputTokens, Algorithm: audit.FixedWindow, Amount: 9000, Window: 30 * time.Millisecond},
		{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 20},
	}
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		a, err := audit.New(audit.Options{Limits: limits})
		if err != nil {
			t.Fatal(err)
		}
		n, s, start := newNaive(limits...), newSlow(), time.Now()
		now := func() time.Duration { return time.Since(start) }
		var callers sync.WaitGroup
		for g := range 100 {
			callers.Go(func() {
				for i := range 10 {
					c := &bench.Call{Key: fmt.Sprintf("org/k%d", g%2), ID: fmt.Sprintf("%d-%d", g, i), LLM: i%2 == 0, Requests: 1}
					c.InputTokens, c.OutputTokens, c.MaxOutputTokens = rand.Int64N(100), rand.Int64N(100), 100
					e := bench.Event{Op: bench.OpCheck, Call: c, Sent: now()}
					if c.LLM {
						e.Op = bench.OpReserve
					}
					s.do(func() { e.Answer = n.ask(c, int64(now())) })
					e.Done = now()
					a.Add(&e)
					if !c.LLM || e.Answer.Outcome != bench.Allowed {
						continue
					}
					e = bench.Event{Op: bench.OpSettle, Call: c, Sent: now()}
					e.Usage = bench.Usage{ID: c.ID, Key: c.Key, InputTokens: c.InputTokens, OutputTokens: c.OutputTokens, Final: true}
					s.do(func() { n.use(c.ID, e.Usage, int64(now())) })
					e.Done = now()
					a.Add(&e)
				}
			})
		}
		callers.Wait()
		close(s.requests)
		s.wait.Wait()
		for k := range 2 {
			sent := now()
			st := n.left(fmt.Sprintf("org/k%d", k), int64(now()))
			st.Sent, st.Done = sent, now()
			a.AddFinalUsage(st)
		}
		r := a.Report()
		if !r.OK || r.Denied == 0 || r.Calls != 1000 || dimension(t, r, audit.Requests).Compared != 2 {
			t.Fatalf("round %d: ok %v, %d denied\n%s", round, r.OK, r.Denied, r.Summary())
		}
	}
}

const enginePolicy = `
tiers:
  t:
    limits:
      - { name: rps, dimension: requests, limit: 2_000, window: 1s, burst: 100 }
      - { name: sliding, dimension: tokens, limit: 30_000, window: 100ms, algorithm: sliding_window }
      - { name: spend, dimension: spend, limit: $0.05, window: day }
      - { name: slots, dimension: concurrent, limit: 15 }
default_tier: t
prices: { "*": { input: 1.00, output: 3.00 } }
`

// engineLimits are the limits of the engine as the auditor knows them.
func engineLimits(start time.Time) audit.Options {
	resets := []time.Duration{}
	if midnight := start.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(start); midnight < time.Hour {
		resets = append(resets, midnight)
	}
	return audit.Options{
		Limits: []audit.Limit{
			{Name: "rps", Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: 2000, Window: time.Second, Burst: 100},
			{Name: "sliding", Dimension: audit.Tokens, Algorithm: audit.SlidingWindow, Amount: 30_000, Window: 100 * time.Millisecond},
			{Name: "spend", Dimension: audit.Spend, Algorithm: audit.FixedWindow, Amount: 50_000, Window: 24 * time.Hour, Resets: resets},
			{Name: "slots", Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 15},
		},
		Prices:    map[string]audit.Price{"*": {Input: 1_000_000, Output: 3_000_000}},
		ClockSkew: 100 * time.Microsecond,
	}
}

// serve runs the engine behind gRPC.
func serve(t *testing.T, start time.Time) pb.RateLimiterClient {
	t.Helper()
	engine := limiter.New(limiter.Options{})
	p, err := policy.Parse("test.yaml", []byte(enginePolicy), engine.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	svc := server.New(server.Options{
		Engine: engine, Policy: func() server.Policy { return p }, Name: "node1",
		Now: func() limiter.Time {
			now := time.Since(start)
			return limiter.Time{Mono: int64(now), Wall: start.Add(now).UnixNano()}
		},
	})
	s := server.NewGRPC(svc, server.GRPCOptions{})
	pipe := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- s.Serve(pipe) }()
	conn, err := grpc.NewClient("passthrough:///node1", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	return pb.NewRateLimiterClient(conn)
}

// drive sends requests to the engine from 100 goroutines.
func drive(t *testing.T, a *audit.Auditor, start time.Time, of func(round int) pb.RateLimiterClient) {
	t.Helper()
	now := func() time.Duration { return time.Since(start) }
	answer := func(d *pb.Decision, err error) (bench.Answer, error) {
		if err != nil {
			return bench.Answer{}, err
		}
		a := bench.Answer{ID: d.RequestId, GrantedOutputTokens: d.GetGrantedOutputTokens(), Replayed: d.Replayed, Route: "local"}
		switch d.Outcome {
		case pb.Outcome_OUTCOME_ALLOWED:
			a.Outcome = bench.Allowed
		case pb.Outcome_OUTCOME_DENIED:
			a.Outcome = bench.Denied
			if d.Reason == pb.Reason_REASON_LIMIT_EXCEEDED {
				a.Reason = "limit_exceeded"
			} else {
				a.Reason = d.Reason.String()
			}
		}
		return a, nil
	}
	ctx := t.Context()
	var callers sync.WaitGroup
	for g := range 100 {
		callers.Go(func() {
			for i := range 30 {
				client := of(i)
				c := &bench.Call{Key: fmt.Sprintf("org/k%d", g%3), ID: fmt.Sprintf("%d-%d", g, i), LLM: i%2 == 0, Requests: 1}
				c.InputTokens, c.OutputTokens, c.MaxOutputTokens = rand.Int64N(100), rand.Int64N(100), 100
				for range 1 + i%7/6 { // some are sent twice
					e := bench.Event{Op: bench.OpCheck, Call: c, Sent: now()}
					if c.LLM {
						e.Op = bench.OpReserve
						e.Answer, e.Err = answer(client.Reserve(ctx, &pb.ReserveRequest{Key: c.Key, RequestId: c.ID, InputTokens: c.InputTokens, MaxOutputTokens: &c.MaxOutputTokens}))
					} else {
						e.Answer, e.Err = answer(client.Check(ctx, &pb.CheckRequest{Key: c.Key, RequestId: c.ID, InputTokens: c.InputTokens, OutputTokens: c.OutputTokens}))
					}
					e.Done = now()
					a.Add(&e)
					if e.Err != nil {
						t.Errorf("ask: %v", e.Err)
					}
					if !c.LLM || e.Answer.Outcome != bench.Allowed {
						continue
					}
					e = bench.Event{Op: bench.OpSettle, Call: c, Sent: now()}
					e.Usage = bench.Usage{ID: c.ID, Key: c.Key, InputTokens: c.InputTokens, OutputTokens: c.OutputTokens, Final: true}
					_, e.Err = client.Settle(ctx, &pb.SettleRequest{Key: c.Key, RequestId: c.ID, InputTokens: &c.InputTokens, OutputTokens: &c.OutputTokens})
					e.Done = now()
					a.Add(&e)
					if e.Err != nil {
						t.Errorf("settle: %v", e.Err)
					}
				}
			}
		})
	}
	callers.Wait()
	for k := range 3 {
		st := audit.KeyUsage{Key: fmt.Sprintf("org/k%d", k), Sent: now()}
		left, err := of(29).Peek(ctx, &pb.PeekRequest{Key: st.Key})
		if err != nil {
			t.Fatal(err)
		}
		st.Done = now()
		for _, l := range left.Limits {
			st.Used = append(st.Used, bench.LimitUsage{Scope: l.Scope, Dimension: l.Dimension, Name: l.Name, Used: l.Capacity - l.Remaining + l.Debt, Limit: l.Limit})
		}
		a.AddFinalUsage(st)
	}
}

func TestTheEngineIsRight(t *testing.T) {
	start := time.Now()
	a, err := audit.New(engineLimits(start))
	if err != nil {
		t.Fatal(err)
	}
	client := serve(t, start)
	drive(t, a, start, func(int) pb.RateLimiterClient { return client })
	r := a.Report()
	t.Log("\n" + r.Summary())
	if !r.OK || r.Denied == 0 || r.Failed > 0 {
		t.Errorf("ok %v, %d denied, %d failed", r.OK, r.Denied, r.Failed)
	}
	for _, d := range r.Dimensions {
		if d.Compared != 3 {
			t.Errorf("%s: %d limits compared, want 3", d.Name, d.Compared)
		}
	}
}

// An engine that loses its state halfway must be found.
func TestTheEngineForgets(t *testing.T) {
	start := time.Now()
	a, err := audit.New(engineLimits(start))
	if err != nil {
		t.Fatal(err)
	}
	clients := [2]pb.RateLimiterClient{serve(t, start), serve(t, start)}
	drive(t, a, start, func(i int) pb.RateLimiterClient { return clients[i/15] })
	r := a.Report()
	t.Log("\n" + r.Summary())
	if d := dimension(t, r, audit.Spend); r.OK || d.Over == 0 || d.Over > 3*50_000 || d.Missing == 0 {
		t.Errorf("a fresh engine halfway: %+v, want some over and missing", d)
	}
}
