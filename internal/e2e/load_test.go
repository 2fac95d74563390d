// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// callDeadline is the deadline of every call. A forward may use 7/8 of it, but at
	// most a second.
	callDeadline = 1200 * time.Millisecond
	workers      = 48
)

// caller checks one request of a key.
type caller func(ctx context.Context, key string) (reply, error)

// reply is the part of a decision that the tests use.
type reply struct {
	allowed bool
	reason  string
	retry   time.Duration
	owner   string
	route   client.Route
	id      string
}

// viaNode calls a node directly, by unary calls.
func viaNode(m *member, tier string) caller {
	routes := map[pb.Route]client.Route{
		pb.Route_ROUTE_LOCAL: client.Local, pb.Route_ROUTE_FORWARD: client.Forward, pb.Route_ROUTE_FALLBACK: client.Fallback,
	}
	reasons := map[pb.Reason]client.Reason{
		pb.Reason_REASON_LIMIT_EXCEEDED: client.LimitExceeded, pb.Reason_REASON_OWNER_UNREACHABLE: client.OwnerUnreachable,
	}
	return func(ctx context.Context, key string) (reply, error) {
		d, err := m.check(ctx, key, tier)
		return reply{
			allowed: d.GetOutcome() == pb.Outcome_OUTCOME_ALLOWED, reason: string(reasons[d.GetReason()]),
			retry: d.GetRetryAfter().AsDuration(), owner: d.GetOwner(), route: routes[d.GetRoute()], id: d.GetRequestId(),
		}, err
	}
}

// viaClient calls through the client library.
func viaClient(c *client.Client, tier string) caller {
	return func(ctx context.Context, key string) (reply, error) {
		d, err := c.Check(ctx, client.Call{Key: key, Tier: tier})
		return reply{allowed: d.Allowed(), reason: string(d.Reason), retry: d.RetryAfter, owner: d.Owner, route: d.Route, id: d.RequestID}, err
	}
}

// viaNodes returns a caller for each of several nodes.
func viaNodes(ms members, tier string) []caller {
	callers := make([]caller, len(ms))
	for i, m := range ms {
		callers[i] = viaNode(m, tier)
	}
	return callers
}

// sample is one call and its result.
type sample struct {
	reply
	began   time.Time
	latency time.Duration
	err     error
}

// samples are the calls of a load, in random order.
type samples []sample

// load makes calls until it is stopped. Each caller has workers that check one key
// after the other, with a pause in between.
type load struct {
	callers []caller
	keys    []string
	workers int           // of each caller
	pause   time.Duration // between two calls of a worker

	from, until time.Time     // of the load
	stop        chan struct{} // closed by end
	latest      sync.Map      // caller -> reply
	count       atomic.Int64
	group       sync.WaitGroup
	mu          sync.Mutex
	all         samples
}

func (l *load) start(t *testing.T) *load {
	l.stop, l.from = make(chan struct{}), time.Now()
	ctx := t.Context()
	for i, call := range l.callers {
		for w := range l.workers {
			l.group.Go(func() { l.work(ctx, i, call, w) })
		}
	}
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) work(ctx context.Context, caller int, call caller, offset int) {
	var own samples
	for n := offset; ; n++ {
		select {
		case <-l.stop:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.all = append(l.all, own...)
			return
		case <-time.After(l.pause):
		}
		s := ask(ctx, call, l.keys[n%len(l.keys)])
		own = append(own, s)
		if s.err == nil {
			l.latest.Store(caller, s.reply)
			l.count.Add(1)
		}
	}
}

// ask makes one call.
func ask(ctx context.Context, call caller, key string) sample {
	ctx, cancel := context.WithTimeout(ctx, callDeadline)
	defer cancel()
	s := sample{began: time.Now()}
	s.reply, s.err = call(ctx, key)
	s.latency = time.Since(s.began)
	return s
}

// end stops the load and returns its calls. It may be called again.
func (l *load) end() samples {
	if l.until.IsZero() {
		close(l.stop)
		l.group.Wait()
		l.until = time.Now()
	}
	return l.all
}

// runFor runs the load for d and returns its calls.
func (l *load) runFor(t *testing.T, d time.Duration) samples {
	t.Helper()
	l.start(t)
	time.Sleep(d)
	return l.end()
}

// allLatest reports whether ok returns true for the latest reply of every caller.
func (l *load) allLatest(ok func(reply) bool) bool {
	for i := range l.callers {
		r, found := l.latest.Load(i)
		if !found || !ok(r.(reply)) {
			return false
		}
	}
	return true
}

// by returns the calls with this route.
func (ss samples) by(route client.Route) samples {
	return slices.DeleteFunc(slices.Clone(ss), func(s sample) bool { return s.err != nil || s.route != route })
}

// window returns the time between the first and the last call.
func (ss samples) window() time.Duration {
	if len(ss) == 0 {
		return 0
	}
	byTime := func(a, b sample) int { return a.began.Compare(b.began) }
	return slices.MaxFunc(ss, byTime).began.Sub(slices.MinFunc(ss, byTime).began)
}

// activeTenths returns the number of tenths of a second with a call. Unlike the
// number of calls, it does not depend on their latency.
func (ss samples) activeTenths() int {
	seen := map[int64]bool{}
	for _, s := range ss {
		seen[s.began.UnixMilli()/100] = true
	}
	return len(seen)
}

// quantile returns a quantile of the latencies, in thousandths.
func (ss samples) quantile(thousandths int) time.Duration {
	if len(ss) == 0 {
		return 0
	}
	took := make([]time.Duration, len(ss))
	for i, s := range ss {
		took[i] = s.latency
	}
	slices.Sort(took)
	return took[(len(took)-1)*thousandths/1000]
}

func (ss samples) String() string {
	routes := map[client.Route]int{}
	failed, allowed := 0, 0
	for _, s := range ss {
		if s.err != nil {
			failed++
			continue
		}
		routes[s.route]++
		if s.allowed {
			allowed++
		}
	}
	round := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	return fmt.Sprintf("%d calls: p50 %v, p99 %v, max %v; %d local, %d forward, %d fallback; %d allowed, %d failed", len(ss),
		round(ss.quantile(500)), round(ss.quantile(990)), round(ss.quantile(1000)),
		routes[client.Local], routes[client.Forward], routes[client.Fallback], allowed, failed)
}

// wantAnswered checks promise I6: every call ended within its deadline, with a
// decision or a declared fallback.
func (ss samples) wantAnswered(t *testing.T, what string) {
	t.Helper()
	if len(ss) == 0 {
		t.Errorf("%s: there was no call", what)
	}
	failed := 0
	for _, s := range ss {
		if s.err != nil {
			if failed++; failed == 1 {
				t.Errorf("%s: a call failed after %v: %v", what, s.latency, s.err)
			}
		}
	}
	if failed > 1 {
		t.Errorf("%s: %d of %d calls failed", what, failed, len(ss))
	}
}

// wantUndisturbed compares the latency of calls before and during a fault. Calls
// that wait for the broken member take up to a second. Those in a batch with a charge whose
// heir has died wait for it 50 ms, pause for 20 ms and wait again, until there is another
// heir, which takes a small machine about 150 ms, on which all partitions change meanwhile.
// The bounds are far below the one, and above the other.
//
// An heir that is only silent is replaced after 0.5 s, and calls that wait for it have a second.
// On a busy machine that is too short for a few of them.
func wantUndisturbed(t *testing.T, what string, before, during samples) {
	t.Helper()
	t.Logf("%s, before: %v", what, before)
	t.Logf("%s, during: %v", what, during)
	before.wantAnswered(t, what+", before")
	during.wantAnswered(t, what+", during")
	if n := len(before.by(client.Fallback)); n != 0 {
		t.Errorf("%s: %d calls were decided in fallback before the fault, want none", what, n)
	}
	if late := during.by(client.Fallback); len(late) > len(during)/1000 || late.window() > 500*time.Millisecond {
		t.Errorf("%s: %d of %d calls were decided in fallback, within %v, want one in a thousand, within half a second", what, len(late), len(during), late.window())
	}
	if got, most := during.quantile(500), 3*before.quantile(500)+10*time.Millisecond; got > most {
		t.Errorf("%s: the median during the fault is %v, want at most %v (before: %v)", what, got, most, before.quantile(500))
	}
	if got, most := during.quantile(990), 5*before.quantile(990)+200*time.Millisecond; got > most {
		t.Errorf("%s: p99 during the fault is %v, want at most %v (before: %v)", what, got, most, before.quantile(990))
	}
}

// admitted makes concurrent calls for a key, through all callers in turn, and counts
// those that were allowed.
func admitted(t *testing.T, callers []caller, key string, calls int) (allowed int, all samples) {
	t.Helper()
	var next atomic.Int64
	var group sync.WaitGroup
	results := make([]samples, workers)
	for w := range workers {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= calls {
					return
				}
				results[w] = append(results[w], ask(t.Context(), callers[i%len(callers)], key))
			}
		})
	}
	group.Wait()
	all = slices.Concat(results...)
	all.wantAnswered(t, "calls for "+key)
	for _, s := range all {
		if s.err == nil && s.allowed {
			allowed++
		}
	}
	return allowed, all
}

// wantExactly checks that a limit of 1,000 admits exactly 1,000 of 1,300 calls.
func wantExactly(t *testing.T, what string, callers []caller, key string) {
	t.Helper()
	allowed, all := admitted(t, callers, key, exactLimit+300)
	if allowed != exactLimit {
		t.Errorf("%s: %d of %d calls for %s were admitted, want exactly %d: %v", what, allowed, len(all), key, exactLimit, all)
	}
	if n := len(all.by(client.Fallback)); n != 0 {
		t.Errorf("%s: %d calls were decided in fallback, want none", what, n)
	}
}
