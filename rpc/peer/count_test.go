// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

var day = limiter.Window{Unit: limiter.UnitDay}

// perDay is hits on a counter of so many a day.
func perDay(key string, limit, hits int64) server.Count {
	return server.Count{Key: key, Limit: limit, Window: day, Hits: hits}
}

// back gives hits back.
func back(q server.Count) server.Count {
	q.GiveBack = true
	return q
}

// count counts at n, and fails the test on an error.
func (n *node) count(hits ...server.Count) []server.Counted {
	n.t.Helper()
	counted, err := n.Count(waittest.Context(n.t, testWait), hits)
	if err != nil || len(counted) != len(hits) {
		n.t.Fatalf("Count() at %s = %v, %v, want %d answers", n.name, counted, err, len(hits))
	}
	for i, c := range counted {
		if c.Err != nil {
			n.t.Fatalf("Count(%+v) at %s = %v", hits[i], n.name, c.Err)
		}
	}
	return counted
}

// counted is what n's own service has of a counter per day.
func (n *node) counted(key string) int64 {
	request := &pb.CountRequest{}
	(&server.Count{Key: key, Window: day}).Fill(request)
	look := call.Of(request)
	return decideAt(n.local, &look).GetCounted().GetUsed()
}

// TestCountExact: 48 callers at all nodes count on four counters with each call,
// together on one and on three of many owners. As many as a limit has are within it,
// every hit counts, and what is given back goes to nothing and no further.
func TestCountExact(t *testing.T) {
	const rounds, size, callers, calls, limit = 10, 3, 48, 25, 1000
	nodes := newCluster(t, size)
	for round := range rounds {
		keys := []string{fmt.Sprint("shared", round)}
		for _, n := range nodes {
			keys = append(keys, n.ownedBy(round))
		}
		var within, over [size + 1]atomic.Int64
		together := func(hits ...server.Count) {
			var wait sync.WaitGroup
			for i := range callers {
				wait.Go(func() {
					for range calls {
						counted, err := nodes[i%size].Count(context.Background(), hits)
						if err != nil {
							t.Error(err)
							return
						}
						for j, c := range counted {
							switch {
							case c.Err != nil || c.Route == pb.Route_ROUTE_FALLBACK:
								t.Errorf("Count(%s) = %+v, want an answer of its owner", hits[j].Key, c)
								return
							case c.Over:
								over[j].Add(1)
							default:
								within[j].Add(1)
							}
						}
					}
				})
			}
			wait.Wait()
		}
		var hits, half, all []server.Count
		for _, key := range keys {
			hits, half, all = append(hits, perDay(key, limit, 2)), append(half, back(perDay(key, limit, 1))), append(all, back(perDay(key, limit, 5)))
		}
		want := func(when string, used int64) {
			t.Helper()
			for _, key := range keys {
				for _, n := range nodes {
					if got := n.count(perDay(key, limit, 0))[0].Used; got != used {
						t.Fatalf("round %d: %s used by %s = %d, want %d", round, key, when, got, used)
					}
				}
			}
		}
		together(hits...)
		for j, key := range keys {
			if in, out := within[j].Load(), over[j].Load(); in != limit/2 || in+out != callers*calls {
				t.Fatalf("round %d: %d on %s within the limit and %d over, want %d of %d within", round, in, key, out, limit/2, callers*calls)
			}
		}
		want("all hits", 2*callers*calls)
		together(half...)
		want("half of them given back", callers*calls)
		together(all...)
		want("more given back than there was", 0)
	}
}

// TestCountIsLocal: a counter says the same, whoever is asked.
func TestCountIsLocal(t *testing.T) {
	nodes := newCluster(t, 3)
	owner := nodes[1]
	for i, n := range nodes {
		key, route := owner.ownedBy(i), pb.Route_ROUTE_FORWARD
		if n == owner {
			route = pb.Route_ROUTE_LOCAL
		}
		got := n.count(perDay(key, 10, 8), perDay(key, 10, 3), perDay(key, 10, 0), back(perDay(key, 10, 4)), perDay(key, 6, 0), back(perDay(key, 0, 9)))
		answer := func(over bool, limit, used, remaining int64) server.Counted {
			return server.Counted{Over: over, Limit: limit, Used: used, Remaining: remaining, Reset: 12 * time.Hour, Owner: owner.name, Route: route}
		}
		want := []server.Counted{
			answer(false, 10, 8, 2), answer(true, 10, 11, 0), answer(true, 10, 11, 0),
			answer(false, 10, 7, 3), answer(true, 6, 7, 0), answer(false, 0, 0, 0),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("at %s: counted differs (-want +got):\n%s", n.name, diff)
		}
	}
}

// TestCountFallsBack: without its owner a counter has a share of its limit. When
// the owner is back it has every hit once, the ones among them that it was sent
// before and could not answer.
func TestCountFallsBack(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 3, short)
	asked, owner := nodes[0], nodes[1]
	key, small := owner.ownedBy(0), owner.ownedBy(1)
	asked.count(perDay(key, 90, 20)) // more than is given back below, which may be told before the hits
	owner.listener.setFrozen(true)
	in := 0
	for i := range 40 {
		c := asked.count(perDay(key, 90, 1))[0]
		if c.Route != pb.Route_ROUTE_FALLBACK || c.Owner != asked.name || c.Limit != 30 || c.Used != int64(i+1) || c.Remaining != max(29-int64(i), 0) {
			t.Fatalf("hit %d = %+v, want a third of the limit, here", i+1, c)
		}
		if !c.Over {
			in++
		}
	}
	if in != 30 {
		t.Errorf("%d hits within, want 30", in)
	}
	if c := asked.count(back(perDay(key, 90, 15)))[0]; c.Over || c.Used != 25 || c.Route != pb.Route_ROUTE_FALLBACK {
		t.Errorf("given back = %+v, want 25 left", c)
	}
	if c := asked.count(perDay(small, 2, 0))[0]; c.Over || c.Limit != 0 {
		t.Errorf("a look at a share of nothing = %+v, want it within", c)
	}
	if c := asked.count(perDay(small, 2, 1))[0]; !c.Over {
		t.Errorf("a hit on a share of nothing = %+v, want it over", c)
	}
	mixed := asked.count(perDay(asked.ownedBy(0), 5, 1), perDay(key, 90, 1), perDay(nodes[2].ownedBy(0), 5, 1))
	for i, want := range []pb.Route{pb.Route_ROUTE_LOCAL, pb.Route_ROUTE_FALLBACK, pb.Route_ROUTE_FORWARD} {
		if mixed[i].Route != want {
			t.Errorf("counter %d of three = %+v, want %v", i+1, mixed[i], want)
		}
	}
	if n := asked.metric("bucketring_fallbacks_total", "count"); n != 44 {
		t.Errorf("%v counts fell back, want 44", n)
	}
	owner.listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	if got := owner.counted(key); got != 20+40-15+1 {
		t.Errorf("the owner has %d, want 46", got)
	}
	if got := owner.counted(small); got != 1 {
		t.Errorf("the owner has %d of the small one, want 1", got)
	}
	eventuallyForwarded(t, asked, func() (pb.Route, error) { return asked.count(perDay(small, 2, 0))[0].Route, nil })
}

// TestCountReportedTooLate: hits of a window that is over when the owner hears of them
// count nowhere.
func TestCountReportedTooLate(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short)
	asked, owner := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	away := owner.member()
	away.GRPC = "127.0.0.1:1" // nobody answers there
	if err := asked.SetTopology(Topology{Serving: []Member{asked.member(), away}, Roster: 2}); err != nil {
		t.Fatal(err)
	}
	if c := asked.count(perDay(key, 10, 3))[0]; c.Route != pb.Route_ROUTE_FALLBACK || asked.Status().Outbox != 1 {
		t.Fatalf("Count() = %+v with %d to tell, want a fallback", c, asked.Status().Outbox)
	}
	asked.clock.elapsed.Add(int64(24 * time.Hour))
	asked.count(perDay(key, 10, 2))
	asked.see(nodes...)
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	if got := owner.counted(key); got != 2 {
		t.Errorf("the owner has %d, want the 2 of today", got)
	}
}

// TestCountInTime: a fallback answers within the caller's deadline.
func TestCountInTime(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	nodes[1].listener.setFrozen(true)
	hits := []server.Count{perDay(nodes[1].ownedBy(0), 9, 1), perDay(nodes[0].ownedBy(0), 9, 1), perDay(nodes[1].ownedBy(1), 9, 1)}
	ctx := waittest.Context(t, 400*time.Millisecond)
	counted, err := nodes[0].Count(ctx, hits)
	if err != nil || ctx.Err() != nil {
		t.Fatalf("Count() = %v, %v, and the deadline is over: %v", counted, err, ctx.Err())
	}
	for i, want := range []pb.Route{pb.Route_ROUTE_FALLBACK, pb.Route_ROUTE_LOCAL, pb.Route_ROUTE_FALLBACK} {
		if counted[i].Route != want || counted[i].Used != 1 {
			t.Errorf("counter %d = %+v, want %v", i, counted[i], want)
		}
	}
}

// TestCountOutboxFull: what the owner would never hear of is refused.
func TestCountOutboxFull(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short, func(o *Options) { o.MaxOutbox = 1 })
	nodes[1].listener.setFrozen(true)
	key := nodes[1].ownedBy(0)
	nodes[0].count(perDay(key, 9, 1))
	counted, err := nodes[0].Count(waittest.Context(t, testWait), []server.Count{perDay(key, 9, 1)})
	if err != nil || grpcstatus.Code(counted[0].Err) != codes.Unavailable {
		t.Errorf("Count() = %+v, %v, want it unavailable", counted, err)
	}
	if c := nodes[0].count(perDay(key, 9, 0))[0]; c.Route != pb.Route_ROUTE_FALLBACK { // nothing to tell
		t.Errorf("a look = %+v, want a fallback", c)
	}
}

// TestCountErrors: a wrong counter costs the others nothing; a wrong call counts
// nothing.
func TestCountErrors(t *testing.T) {
	nodes := newCluster(t, 2)
	here, there := nodes[0].ownedBy(0), nodes[1].ownedBy(0)
	hits := []server.Count{perDay(here, 9, 1), perDay(there, -1, 1), perDay(there, 9, 1), perDay(here, 9, -1), {Key: there, Limit: 1, Hits: 1}, perDay("a//b", 9, 1)}
	counted, err := nodes[0].Count(waittest.Context(t, testWait), hits)
	if err != nil {
		t.Fatal(err)
	}
	for i, field := range []string{"", "limit", "", "hits", "unit", "key"} {
		e := server.Describe(counted[i].Err)
		if field == "" && (counted[i].Err != nil || counted[i].Used != 1) || field != "" && (codes.Code(e.GetCode()) != codes.InvalidArgument || e.GetField() != field) {
			t.Errorf("counter %d = %+v, want an error of %q", i, counted[i], field)
		}
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if counted, err := nodes[0].Count(gone, hits); grpcstatus.Code(err) != codes.Canceled || counted != nil {
		t.Errorf("Count() for nobody = %v, %v, want Canceled", counted, err)
	}
	if counted, err := nodes[0].Count(waittest.Context(t, testWait), make([]server.Count, server.MaxItems+1)); grpcstatus.Code(err) != codes.InvalidArgument || counted != nil {
		t.Errorf("Count() on too many = %v, %v, want InvalidArgument", counted, err)
	}
	if counted, err := nodes[0].Count(waittest.Context(t, testWait), nil); err != nil || len(counted) != 0 {
		t.Errorf("Count() on none = %v, %v, want none", counted, err)
	}
	for key, n := range map[string]*node{here: nodes[0], there: nodes[1]} {
		if got := n.counted(key); got != 1 {
			t.Errorf("%s has %d, want 1", key, got)
		}
	}
}

// TestCountIsForMembers: the public API has no counters.
func TestCountIsForMembers(t *testing.T) {
	nodes := newCluster(t, 2)
	for _, key := range []string{nodes[0].ownedBy(0), nodes[1].ownedBy(0)} {
		q := perDay(key, 9, 1)
		request := &pb.CountRequest{RequestId: "id"}
		q.Fill(request)
		item := itemOf(request)
		e := openExchange(t, nodes[0]).ask(item, &pb.Item{Call: item.Call, Replay: true})
		for i, field := range []string{"call", "replay"} {
			if got := e.Results[i].GetError(); codes.Code(got.GetCode()) != codes.InvalidArgument || got.GetField() != field {
				t.Errorf("item %d = %v, want an error of %s", i, e.Results[i], field)
			}
		}
	}
	for i, n := range nodes {
		if got := n.counted(nodes[i].ownedBy(0)); got != 0 {
			t.Errorf("%s counted %d, want nothing", n.name, got)
		}
	}
}

// TestCountAtAnEarlierVersion: an owner that knows no counters is like one that
// does not answer.
func TestCountAtAnEarlierVersion(t *testing.T) {
	nodes := newCluster(t, 2)
	n := nodes[0]
	q := perDay(nodes[1].ownedBy(0), 8, 1)
	for field, want := range map[string]pb.Route{"call": pb.Route_ROUTE_FALLBACK, "hits": pb.Route_ROUTE_UNSPECIFIED} {
		request := &pb.CountRequest{RequestId: "id of " + field}
		q.Fill(request)
		c := call.Of(request)
		f := &forward{Call: &c}
		n.accept(n.limit(waittest.Context(t, testWait), time.Now(), 1), f, server.Failed(wrongField(field, "none", "is unknown")))
		if got := f.result.GetCounted().GetRoute(); got != want || want == 0 && code(f.result) != codes.InvalidArgument {
			t.Errorf("an error of %s became %v, want route %v", field, f.result, want)
		}
	}
}

// TestCountAllocations: at the owner hits take the memory of the answers.
func TestCountAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	nodes := newCluster(t, 2)
	hits := countersOf(nodes[0], 4)
	if got := testing.AllocsPerRun(200, func() { nodes[0].countAll(t, hits) }); got > 1 {
		t.Errorf("4 counters at their owner take %v allocations, want 1", got)
	}
}

// countAll is count for loops that are measured.
func (n *node) countAll(t testing.TB, hits []server.Count) {
	if counted, err := n.Count(context.Background(), hits); err != nil || counted[len(hits)-1].Err != nil {
		t.Fatalf("Count() = %v, %v", counted, err)
	}
}

// countersOf returns hits on counters that n owns.
func countersOf(n *node, counters int) []server.Count {
	hits := make([]server.Count, counters)
	for i := range hits {
		hits[i] = server.Count{Key: n.ownedBy(i), Limit: 1 << 40, Window: limiter.Window{Unit: limiter.UnitMinute}, Hits: 1}
	}
	return hits
}

// BenchmarkCount counts on one and on four counters with a call: at their owner,
// and at another member.
func BenchmarkCount(b *testing.B) {
	nodes := newCluster(b, 3)
	for _, counters := range []int{1, 4} {
		hits := countersOf(nodes[0], counters)
		for i, route := range []string{"local", "forward"} {
			b.Run(fmt.Sprint(route, " ", counters), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					nodes[i].countAll(b, hits)
				}
			})
		}
	}
	hits := countersOf(nodes[0], 4)
	b.Run("forward 4, many callers", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(64)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				nodes[1].countAll(b, hits)
			}
		})
	})
}
