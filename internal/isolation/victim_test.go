// SPDX-License-Identifier: Apache-2.0

//go:build linux

package isolation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/bench/suite"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// rules are the policy of all nodes. The victim is never near a limit, so that every
// denial is a wrong one.
const rules = `
tiers:
  victim:
    limits:
      - { dimension: requests, limit: 1_000_000_000, window: day, algorithm: fixed_window }
      - { dimension: tokens, limit: 1_000_000_000_000, window: day, algorithm: fixed_window }
  audited:
    limits:
      - { dimension: requests, limit: 40_000, window: day, algorithm: fixed_window }
      - { dimension: tokens, limit: 4_000_000, window: day, algorithm: fixed_window }
  flooder: { requests: 1_000_000_000/min }
  pinned:  { tokens: 1_000_000/day }
  two:     { concurrent: 2, requests: 1_000_000/min }
  few:     { requests: 10/hour }
  tight:   { tokens: 4_000/day }
default_tier: victim
assign:
  - { key: "audited-*/*", tier: audited }
  - { key: "flood-*/*",   tier: flooder }
  - { key: "pin-*/*",     tier: pinned }
  - { key: "two-*/*",     tier: two }
  - { key: "few-*/*",     tier: few }
  - { key: "tight-*/*",   tier: tight }
prices: { "*": { input: 1, output: 1 } }
`

// What a victim may notice.
const (
	victimRate = 200 // calls per second
	mostSlower = 3   // times the p99 of quiet
	windowTime = 800 * time.Millisecond
	// patience bounds each call. It is long, so that a busy machine causes no error.
	patience = 10 * time.Second
	// latencyFloor is the p99 below which ratios say nothing, because the machine is
	// shared.
	latencyFloor = 15 * time.Millisecond
)

// victim sends calls and judges the answers.
type victim struct {
	t       *testing.T
	targets spread
	auditor *audit.Auditor
	began   time.Time
	stop    context.CancelFunc
	done    chan struct{} // closed when all calls have ended
	err     error

	rate int
	// forgettable says that a full node may forget what the victim used: too little
	// to matter.
	forgettable bool

	mu     sync.Mutex
	events []bench.Event
	keys   map[string]bool
}

// runs tells the ids of victims apart, which share the node without a flood.
var runs atomic.Int64

// callsOf returns the calls of the victim: half of them checks, half of them
// reservations that are settled, on 40 keys. More roots are added to the usual ones.
func callsOf(roots ...string) bench.Workload {
	for i := range 40 {
		roots = append(roots, fmt.Sprintf("victim-%02d", i))
	}
	n, run := 0, runs.Add(1)
	return bench.WorkloadFunc(func(c *bench.Call) bool {
		n++
		*c = bench.Call{Key: roots[n%len(roots)] + "/user", ID: fmt.Sprintf("v%d-%d", run, n), Requests: 1, InputTokens: 10}
		if n/len(roots)%2 == 0 {
			c.LLM, c.MaxOutputTokens, c.OutputTokens, c.Duration = true, 100, 50, 20*time.Millisecond
		}
		return true
	})
}

// freshCalls are as callsOf, but each is of a new root.
func freshCalls() bench.Workload {
	n, run := 0, runs.Add(1)
	return bench.WorkloadFunc(func(c *bench.Call) bool {
		n++
		*c = bench.Call{Key: fmt.Sprintf("fresh-%d/user", n), ID: fmt.Sprintf("v%d-%d", run, n), Requests: 1, InputTokens: 10}
		if n%2 == 0 {
			c.LLM, c.MaxOutputTokens, c.OutputTokens, c.Duration = true, 100, 50, 20*time.Millisecond
		}
		return true
	})
}

// auditedCalls are as callsOf, on keys of the tier audited. The first call of each key
// takes more than 1 % of its limits, so that no node may forget it.
func auditedCalls() bench.Workload {
	var roots []string
	for i := range 40 {
		roots = append(roots, fmt.Sprintf("audited-%02d", i))
	}
	n, run := 0, runs.Add(1)
	return bench.WorkloadFunc(func(c *bench.Call) bool {
		n++
		*c = bench.Call{Key: roots[n%len(roots)] + "/user", ID: fmt.Sprintf("v%d-%d", run, n), Requests: 1, InputTokens: 10}
		switch {
		case n <= len(roots):
			c.Requests, c.InputTokens = 800, 80_000
		case n/len(roots)%2 == 0:
			c.LLM, c.MaxOutputTokens, c.OutputTokens, c.Duration = true, 100, 50, 20*time.Millisecond
		}
		return true
	})
}

// checksOf are checks of one root.
func checksOf(root string) bench.Workload {
	n := 0
	return bench.WorkloadFunc(func(c *bench.Call) bool {
		n++
		*c = bench.Call{Key: fmt.Sprintf("%s/u%d", root, n%10), ID: fmt.Sprintf("v-%d", n), Requests: 1}
		return true
	})
}

// spread asks all nodes in turn.
type spread struct {
	nodes []bench.Target
	next  *counter
}

func (s spread) Name() string { return "all nodes" }

type counter struct {
	mu sync.Mutex
	n  int
}

func (s spread) pick() bench.Target {
	s.next.mu.Lock()
	defer s.next.mu.Unlock()
	s.next.n++
	return s.nodes[s.next.n%len(s.nodes)]
}

func (s spread) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return s.pick().Check(ctx, c)
}

func (s spread) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return s.pick().Reserve(ctx, c)
}

func (s spread) Settle(ctx context.Context, u bench.Usage) (bench.Answer, error) {
	return s.pick().Settle(ctx, u)
}

func (s spread) Close() (err error) {
	for _, n := range s.nodes {
		err = errors.Join(err, n.Close())
	}
	return err
}

// victimOf starts a victim that asks every node, over gRPC and over HTTP.
func (c *cluster) victimOf(t *testing.T, calls bench.Workload) *victim {
	t.Helper()
	s := spread{next: &counter{}}
	for _, n := range c.Nodes() {
		for _, spec := range []string{"grpc:" + n.GRPC, "http://" + n.HTTP} {
			one, err := target.Open(spec, target.Options{Timeout: patience})
			if err != nil {
				t.Fatal(err)
			}
			s.nodes = append(s.nodes, one)
		}
	}
	return startVictim(t, s, calls, victimRate)
}

func startVictim(t *testing.T, targets spread, calls bench.Workload, rate int) *victim {
	t.Helper()
	for _, one := range targets.nodes {
		if err := target.Ready(waittest.Context(t, waittest.Limit), one); err != nil {
			t.Fatal(err)
		}
	}
	p, err := policy.Parse("rules", []byte(rules), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{t: t, targets: targets, rate: rate, began: time.Now(), done: make(chan struct{}), keys: map[string]bool{}}
	if v.auditor, err = audit.New(suite.PolicyAuditOptions(p, v.began, true)); err != nil {
		t.Fatal(err)
	}
	arrivals, err := bench.Constant(float64(rate))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	v.stop = stop
	go func() {
		defer close(v.done)
		_, v.err = bench.Run(ctx, bench.Options{
			Target: targets, Workload: calls, Arrivals: arrivals, Duration: 24 * time.Hour, Timeout: patience, OnEvent: v.saw,
		})
	}()
	t.Cleanup(func() {
		stop()
		<-v.done
		if err := targets.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// saw is called for each answer.
func (v *victim) saw(e bench.Event) {
	v.auditor.Add(&e)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys[e.Call.Key] = true
	v.events = append(v.events, e)
}

// window is what the victim noticed in some time.
type window struct {
	calls, denied, fallbacks, failed int
	p99                              time.Duration
	first                            string // wrong answer
}

func (w window) String() string {
	return fmt.Sprintf("%d calls, %d denied, %d in fallback, %d failed, p99 %s", w.calls, w.denied, w.fallbacks, w.failed, w.p99.Round(10*time.Microsecond))
}

// since judges the calls that were due from a time on; it waits for those that are due
// until now.
func (v *victim) since(from time.Time) (w window) {
	v.t.Helper()
	low, high := from.Sub(v.began), time.Since(v.began)
	var latencies []time.Duration
	due := int((high-low).Seconds()*float64(v.rate)) - 2 // checks and reserves; rounded down
	waittest.Until(v.t, "the answers to the victim's calls", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		w, latencies = window{}, latencies[:0]
		for i := range v.events {
			e := &v.events[i]
			if e.Due < low || e.Due >= high {
				continue
			}
			if e.Op == bench.OpCheck || e.Op == bench.OpReserve {
				w.calls++
			}
			latencies = append(latencies, e.Done-e.Due)
			switch {
			case e.Err != nil:
				w.failed++
				w.first = e.Err.Error()
			case e.Answer.Outcome == bench.Denied:
				w.denied++
				w.first = "denied: " + e.Answer.Reason
			case e.Answer.Route == "fallback":
				w.fallbacks++
			}
		}
		return w.calls >= due
	})
	slices.Sort(latencies)
	if len(latencies) > 0 {
		w.p99 = latencies[len(latencies)*99/100]
	}
	return w
}

// correct checks that nothing was denied, failed or decided without the owner.
func (w window) correct(t *testing.T, when string) {
	t.Helper()
	if w.denied > 0 || w.fallbacks > 0 || w.failed > 0 {
		t.Errorf("%s the victim had: %s (%s), want 0 denied, in fallback and failed", when, w, w.first)
	}
}

// end ends the calls and lets the auditor judge them all.
func (v *victim) end() {
	v.t.Helper()
	v.stop()
	<-v.done
	if v.err != nil && !errors.Is(v.err, context.Canceled) {
		v.t.Errorf("the run of the victim ended: %v", v.err)
	}
	usage, ok := v.targets.nodes[0].(bench.UsageReader)
	if !ok || v.forgettable {
		return
	}
	for key := range v.keys {
		used, err := usage.ReadUsage(waittest.Context(v.t, waittest.Limit), key, "", "")
		if err != nil {
			v.t.Fatal(err)
		}
		v.auditor.AddFinalUsage(audit.KeyUsage{Key: key, Used: used})
	}
	if r := v.auditor.Report(); !r.OK {
		v.t.Errorf("the victim's counts are wrong:\n%s", r.Summary())
	}
}

// isolated measures victims without the flood and with it. flood returns when it has
// begun in full, and goes on until its context is done.
func isolated(t *testing.T, flood func(ctx context.Context) (wait func()), victims ...*victim) {
	t.Helper()
	calm := control.victimOf(t, callsOf())
	all := append([]*victim{calm}, victims...)
	quiet := quietWindows(t, all)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	wait := flood(ctx)
	// The best of five windows counts: what the flood does to the victim it does in
	// each, what others do to the machine it does in some. The node without a flood
	// shows how slow the machine is meanwhile.
	seen := make([][]string, len(victims))
	fast := make([]bool, len(victims))
	for range 5 {
		from := time.Now()
		time.Sleep(windowTime)
		machine := max(1, calm.since(from).ratio(quiet[0]))
		for i, v := range victims {
			w := v.since(from)
			ratio := w.ratio(quiet[i+1])
			seen[i] = append(seen[i], fmt.Sprintf("p99 %s, %.1fx of quiet (machine %.1fx)", w.p99.Round(10*time.Microsecond), ratio, machine))
			fast[i] = fast[i] || ratio <= mostSlower*machine
		}
	}
	flooded := make([]window, len(victims))
	for i, v := range victims {
		flooded[i] = v.since(began)
	}
	cancel()
	wait()
	for i, v := range victims {
		t.Logf("victim %d: quiet %s; flood %s; windows: %s", i, quiet[i+1], flooded[i], strings.Join(seen[i], "; "))
		flooded[i].correct(t, "during the flood")
		if !fast[i] {
			t.Errorf("the flood slows the victim in each window: %s, want at most %dx", strings.Join(seen[i], "; "), mostSlower)
		}
		v.end()
	}
}

// quietWindows returns what victims see without a flood: the fastest of two windows, since
// nodes have just started.
func quietWindows(t *testing.T, victims []*victim) []window {
	t.Helper()
	quiet := make([]window, len(victims))
	for n := range 2 {
		from := time.Now()
		time.Sleep(windowTime)
		for i, v := range victims {
			w := v.since(from)
			w.correct(t, "before the flood")
			if n == 0 || w.p99 < quiet[i].p99 {
				quiet[i] = w
			}
		}
	}
	return quiet
}

// ratio compares p99. What is below the floor counts as the floor.
func (w window) ratio(quiet window) float64 {
	const floor = latencyFloor / mostSlower
	return float64(max(w.p99, floor)) / float64(max(quiet.p99, floor))
}
