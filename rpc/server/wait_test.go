// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

const waitPolicy = `
tiers:
  slots:
    limits:
      - { name: slots, dimension: concurrent, limit: 1, queue: { max_wait: 5s, max_depth: 3 } }
  rate:
    limits:
      - { name: rpm, dimension: requests, limit: 60, window: 1m, burst: 1, queue: { max_wait: 3s, max_depth: 100 } }
  plain:
    limits:
      - { name: rpm, dimension: requests, limit: 1, window: 1m }
default_tier: slots
`

// waitingNode is a service whose clock is that of the synctest bubble.
func waitingNode(t *testing.T) (n *node, setPolicy func(string)) {
	t.Helper()
	engine, began := limiter.New(limiter.Options{}), time.Now()
	var current atomic.Pointer[policy.Policy]
	set := func(text string) {
		p, err := policy.Parse("test.yaml", []byte(text), engine.Catalog())
		if err != nil {
			t.Fatalf("policy: %v", err)
		}
		current.Store(p)
	}
	set(waitPolicy)
	n = &node{registry: prometheus.NewRegistry()}
	n.Service = New(Options{
		Engine: engine, Policy: func() Policy { return current.Load() }, Name: "node1", Registry: n.registry,
		Now: func() limiter.Time {
			return limiter.Time{Mono: int64(time.Since(began)), Wall: time.Now().UnixNano()}
		},
	})
	n.EnableWaiting(func(int) uint64 { return 1 })
	return n, func(text string) { set(text); n.PolicyChanged() }
}

// enqueued is a call that waits, with its result.
type enqueued struct {
	waiter *Waiter
	mu     sync.Mutex
	result *pb.Result // nil: none yet, or moved
	moved  bool
}

func (n *node) enqueue(q proto.Message) *enqueued {
	e := &enqueued{}
	c := call.Of(q)
	e.waiter = &Waiter{Call: c, Done: func(r *Results) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if r == nil {
			e.moved = true
			return
		}
		e.result = r.Get(0)
		r.Release()
	}}
	n.Enqueue(e.waiter)
	return e
}

func (e *enqueued) decision() *pb.Decision {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.result.GetDecision()
}

// want checks the decision of a call; "" means that it still waits.
func (e *enqueued) want(t *testing.T, name, outcome string) {
	t.Helper()
	got := ""
	if d := e.decision(); d != nil {
		got = limiter.Outcome(d.Outcome).String()
	}
	if got != outcome {
		t.Errorf("%s: outcome %q, want %q: %v", name, got, outcome, e.result)
	}
}

// slot reserves under a limit that all keys share: the tier is that of the root's key.
func slot(id string) *pb.ReserveRequest { return &pb.ReserveRequest{Key: "acme", RequestId: id} }

func hit(id string) *pb.CheckRequest {
	return &pb.CheckRequest{Key: "acme", RequestId: id, Tier: "rate"}
}

func (n *node) do(t *testing.T, q proto.Message) *pb.Result {
	t.Helper()
	results := n.Do(context.Background(), []call.Call{call.Of(q)})
	defer results.Release()
	return results.Get(0)
}

func TestWaitForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		if d := n.do(t, slot("a")).GetDecision(); d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED {
			t.Fatalf("first reserve: %v", d)
		}
		denied := n.do(t, slot("b")).GetDecision()
		if !denied.GetMayWait() || denied.GetOutcome() != pb.Outcome_OUTCOME_DENIED {
			t.Fatalf("second reserve: may_wait %v, %v", denied.GetMayWait(), denied.GetOutcome())
		}
		b, c := n.enqueue(slot("b")), n.enqueue(slot("c"))
		if got := n.Waiting(); got.Standard != 2 {
			t.Errorf("Waiting() = %+v, want 2 standard", got)
		}
		time.Sleep(time.Second)
		if r := n.do(t, slot("late")).GetDecision(); r.GetOutcome() != pb.Outcome_OUTCOME_DENIED || !r.GetMayWait() {
			t.Errorf("a new call while others wait: %v", r)
		}
		n.do(t, &pb.SettleRequest{Key: "acme", RequestId: "a"})
		b.want(t, "b", "allowed")
		c.want(t, "c", "")
		if d := b.decision(); d.GetPlace() != 1 || d.GetWaited().AsDuration() != time.Second || d.GetMayWait() {
			t.Errorf("b: place %d, waited %v, may_wait %v; want 1, 1s, false", d.GetPlace(), d.GetWaited().AsDuration(), d.GetMayWait())
		}
		n.do(t, &pb.CancelRequest{Key: "acme", RequestId: "b"})
		c.want(t, "c", "allowed")
		if d := c.decision(); d.GetPlace() != 2 || d.GetPriority() != pb.Priority_PRIORITY_STANDARD {
			t.Errorf("c: place %d, priority %v", d.GetPlace(), d.GetPriority())
		}
		synctest.Wait() // the timer of the line may be at it
		if got := n.Waiting(); got.Standard != 0 || n.lines.roots.Load() != 0 || n.lines.calls.Load() != 0 {
			t.Errorf("at the end: %+v, %d lines, %d calls", got, n.lines.roots.Load(), n.lines.calls.Load())
		}
	})
}

func TestWaitForTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		n.do(t, hit("0"))
		var calls []*enqueued
		for i := range 4 {
			calls = append(calls, n.enqueue(hit(fmt.Sprint("w", i))))
		}
		calls[3].want(t, "the fourth, which would wait for 4s and may wait for 3s", "denied")
		if d := calls[3].decision(); d.GetWaitRefused() != "too_late" || d.GetRetryAfter().AsDuration() != 4*time.Second || d.GetWaited() != nil {
			t.Errorf("refused: %v", d)
		}
		for i := range 3 {
			calls[i].want(t, "waits", "")
			time.Sleep(time.Second - time.Nanosecond)
			synctest.Wait()
			calls[i].want(t, "just before its time", "")
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			calls[i].want(t, "at its time", "allowed")
		}
	})
}

func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		n.do(t, slot("a"))
		b := n.enqueue(slot("b"))
		again := n.enqueue(slot("b")) // a repeat
		other := n.enqueue(&pb.ReserveRequest{Key: "acme", RequestId: "b", InputTokens: 5})
		if code := codes.Code(other.result.GetError().GetCode()); code != codes.AlreadyExists {
			t.Errorf("another call with the id of one that waits: %v", other.result)
		}
		c, d := n.enqueue(slot("c")), n.enqueue(slot("d"))
		full := n.enqueue(slot("e"))
		full.want(t, "the fourth of three", "denied")
		if got := full.decision().GetWaitRefused(); got != "limit_full" {
			t.Errorf("wait_refused = %q", got)
		}
		if !n.Leave(c.waiter) || n.Leave(c.waiter) {
			t.Error("Leave() of a call that waits is true once")
		}
		if r := n.do(t, &pb.CancelRequest{Key: "acme", RequestId: "d"}); r.GetSettlement().GetStatus() != pb.ReservationStatus_RESERVATION_STATUS_CANCELLED {
			t.Errorf("cancel of a call that waits: %v", r)
		}
		if code := codes.Code(d.result.GetError().GetCode()); code != codes.Canceled {
			t.Errorf("the call that was cancelled: %v", d.result)
		}
		if !n.Leave(b.waiter) { // the repeat takes its place
			t.Error("Leave() = false")
		}
		n.do(t, &pb.SettleRequest{Key: "acme", RequestId: "a"})
		again.want(t, "the repeat", "allowed")
		f, g := n.enqueue(slot("f")), n.enqueue(slot("f"))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, e := range []*enqueued{f, g} {
			e.want(t, "at the end of its time", "denied")
		}
		if d := f.decision(); d.GetWaited().AsDuration() != 5*time.Second || d.GetReason() != pb.Reason_REASON_LIMIT_EXCEEDED || d.GetRetryAfter() == nil {
			t.Errorf("the end of the time: %v", d)
		}
		if c.result != nil || b.result != nil {
			t.Error("a call that left has a result")
		}
	})
}

func TestWaitJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		n.do(t, slot("a"))
		first, repeat := n.enqueue(slot("b")), n.enqueue(slot("b"))
		n.do(t, &pb.SettleRequest{Key: "acme", RequestId: "a"})
		first.want(t, "the first", "allowed")
		repeat.want(t, "its repeat", "allowed")
		if first.decision().GetReplayed() || !repeat.decision().GetReplayed() {
			t.Errorf("replayed: %v and %v, want false and true", first.decision().GetReplayed(), repeat.decision().GetReplayed())
		}
	})
}

// Repeats of a call that waits are bounded, and count as no calls of their own.
func TestWaitJoinedAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		n.do(t, slot("a"))
		var all []*enqueued
		for range maxJoined + 1 {
			all = append(all, n.enqueue(slot("b")))
		}
		refused := n.enqueue(slot("b"))
		refused.want(t, "one repeat too many", "denied")
		if got := refused.decision().GetWaitRefused(); got != "key_full" {
			t.Errorf("wait_refused = %q, want key_full", got)
		}
		if got := n.Waiting().Standard; got != 1 {
			t.Errorf("%d calls wait, want 1", got)
		}
		n.Leave(all[0].waiter)
		if got := n.Waiting().Standard; got != 1 {
			t.Errorf("after the first has left: %d calls wait, want 1", got)
		}
		n.do(t, &pb.SettleRequest{Key: "acme", RequestId: "a"})
		for _, e := range all[1:] {
			e.want(t, "a repeat", "allowed")
		}
		if got := n.Waiting().Standard; got != 0 {
			t.Errorf("at the end %d calls wait", got)
		}
	})
}

func TestWaitWakes(t *testing.T) {
	for name, wake := range map[string]func(n *node, setPolicy func(string)){
		"the end of a lease": func(*node, func(string)) { time.Sleep(2*time.Second + time.Millisecond) },
		"a raised limit": func(_ *node, setPolicy func(string)) {
			setPolicy(`{ tiers: { slots: { limits: [ { name: slots, dimension: concurrent, limit: 2, queue: { max_wait: 5s, max_depth: 3 } } ] } }, default_tier: slots }`)
		},
		"a withdrawal": func(n *node, _ func(string)) {
			c := call.FromItem(&pb.Item{Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: "acme", RequestId: "a"}}, Attempt: 7}, call.API)
			n.Do(context.Background(), []call.Call{c}).Release()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, setPolicy := waitingNode(t)
				c := call.FromItem(&pb.Item{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{Key: "acme", RequestId: "a", TtlSeconds: new(int64(2))}}, Attempt: 7}, call.API)
				n.Do(context.Background(), []call.Call{c}).Release()
				b := n.enqueue(slot("b"))
				synctest.Wait()
				b.want(t, "before", "")
				wake(n, setPolicy)
				synctest.Wait()
				b.want(t, "after", "allowed")
			})
		})
	}
}

func TestWaitMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		n.do(t, slot("a"))
		b, c := n.enqueue(slot("b")), n.enqueue(slot("b"))
		n.MoveWaiting(func(partition int) bool { return true })
		if b.moved {
			t.Error("moved, although the member owns the partition")
		}
		n.MoveWaiting(func(partition int) bool { return partition != limiter.PartitionOf("acme") })
		if !b.moved || !c.moved || n.lines.roots.Load() != 0 || n.lines.calls.Load() != 0 {
			t.Errorf("moved %v and %v; %d lines, %d calls", b.moved, c.moved, n.lines.roots.Load(), n.lines.calls.Load())
		}
		// Elsewhere it has waited already: its time is over earlier, and it goes first.
		w := &enqueued{}
		w.waiter = &Waiter{Call: call.Of(slot("old")), Waited: 4 * time.Second, Done: func(r *Results) { w.result = r.Get(0); r.Release() }}
		younger := n.enqueue(slot("young"))
		n.Enqueue(w.waiter)
		n.do(t, &pb.SettleRequest{Key: "acme", RequestId: "a"})
		w.want(t, "the call that waited before", "allowed")
		if got := w.decision().GetWaited().AsDuration(); got != 4*time.Second {
			t.Errorf("waited %v, want 4s", got)
		}
		younger.want(t, "the call that came first", "")
		n.Leave(younger.waiter)
	})
}

func TestMayWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		n.do(t, hit("0"))
		n.do(t, &pb.CheckRequest{Key: "acme", Tier: "plain"})
		for _, tc := range []struct {
			name    string
			q       proto.Message
			mayWait bool
			refused string
		}{
			{"as the policy says", hit("1"), true, ""},
			{"max_wait 0", &pb.CheckRequest{Key: "acme", Tier: "rate", MaxWait: durationpb.New(0)}, false, ""},
			{"long enough", &pb.CheckRequest{Key: "acme", Tier: "rate", MaxWait: durationpb.New(time.Second)}, true, ""},
			{"too short", &pb.CheckRequest{Key: "acme", Tier: "rate", MaxWait: durationpb.New(time.Second - 1)}, false, "too_late"},
			{"no queue", &pb.CheckRequest{Key: "acme", Tier: "plain"}, false, ""},
			{"never fits", &pb.CheckRequest{Key: "acme", Tier: "rate", Requests: new(int64(2))}, false, ""},
		} {
			d := n.do(t, tc.q).GetDecision()
			if d.GetOutcome() != pb.Outcome_OUTCOME_DENIED || d.GetMayWait() != tc.mayWait || d.GetWaitRefused() != tc.refused {
				t.Errorf("%s: %v, may_wait %v, wait_refused %q; want denied, %v, %q", tc.name, d.GetOutcome(), d.GetMayWait(), d.GetWaitRefused(), tc.mayWait, tc.refused)
			}
		}
	})
}

func TestInvalidWaits(t *testing.T) {
	n := newNode(t)
	for _, tc := range []struct {
		field string
		q     *pb.CheckRequest
	}{
		{"max_wait", &pb.CheckRequest{Key: "a", MaxWait: durationpb.New(-1)}},
		{"max_wait", &pb.CheckRequest{Key: "a", MaxWait: durationpb.New(limiter.MaxMaxWait + 1)}},
		{"max_wait", &pb.CheckRequest{Key: "a", MaxWait: &durationpb.Duration{Seconds: 1, Nanos: -1}}},
		{"max_wait", &pb.CheckRequest{Key: "a", MaxWait: &durationpb.Duration{Seconds: 1 << 60}}},
		{"priority", &pb.CheckRequest{Key: "a", Priority: 4}},
		{"priority", &pb.CheckRequest{Key: "a", Priority: -1}},
	} {
		r := n.do(t, tc.q)
		if e := r.GetError(); codes.Code(e.GetCode()) != codes.InvalidArgument || e.GetField() != tc.field {
			t.Errorf("%v: %v, want an error of %s", tc.q, r, tc.field)
		}
	}
}

// A call that waits for a slot waits for all of its time: nothing says when one is free.
func TestWaitForASlotTakesAllOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		n.do(t, slot("a"))
		b := n.enqueue(slot("b"))
		time.Sleep(5*time.Second - time.Nanosecond)
		synctest.Wait()
		b.want(t, "just before the end of its time", "")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		b.want(t, "at the end", "denied")
	})
}

func TestWaitingLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		if got := n.WaitingLimits(5); got != nil {
			t.Errorf("%+v, although no call waits", got)
		}
		n.do(t, slot("a"))
		n.do(t, hit("x"))
		n.do(t, &pb.ReserveRequest{Key: "globex", RequestId: "a"})
		var calls []*enqueued
		for i, q := range []proto.Message{
			&pb.ReserveRequest{Key: "acme", RequestId: "b", Priority: pb.Priority_PRIORITY_BATCH}, slot("c"), slot("c"), // a repeat
			hit("y"), &pb.ReserveRequest{Key: "globex", RequestId: "b", Priority: pb.Priority_PRIORITY_INTERACTIVE},
		} {
			calls = append(calls, n.enqueue(q))
			calls[i].want(t, "waits", "")
			time.Sleep(100 * time.Millisecond)
		}
		want := []WaitingLimit{
			{Scope: "acme", Name: "slots", Dimension: limiter.Concurrent, Waiting: Waiting{Standard: 1, Batch: 1}, Longest: 500 * time.Millisecond},
			{Scope: "acme", Name: "rpm", Dimension: limiter.Requests, Waiting: Waiting{Standard: 1}, Longest: 200 * time.Millisecond},
			{Scope: "globex", Name: "slots", Dimension: limiter.Concurrent, Waiting: Waiting{Interactive: 1}, Longest: 100 * time.Millisecond},
		}
		if got := n.WaitingLimits(5); !slices.Equal(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if got := n.WaitingLimits(2); !slices.Equal(got, want[:2]) {
			t.Errorf("the first two: got %+v\nwant %+v", got, want[:2])
		}
		n.MoveWaiting(func(int) bool { return false })
		if got := n.WaitingLimits(5); got != nil {
			t.Errorf("%+v, although all have left", got)
		}
	})
}

// A lease whose end another call has noticed first frees its slot for those that wait at once.
func TestWaitForTheEndOfALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		a := slot("a")
		a.TtlSeconds = new(int64(1))
		n.do(t, a)
		time.Sleep(500 * time.Millisecond)
		b := n.enqueue(slot("b"))
		time.Sleep(500*time.Millisecond - 1)
		l := n.lines.enter(n.Service, "acme", false)
		time.Sleep(time.Nanosecond) // the timer of the line has to wait for the lock
		n.do(t, &pb.PeekRequest{Key: "acme"})
		l.run() // as another call does
		n.lines.leave(l)
		synctest.Wait()
		b.want(t, "b", "allowed")
	})
}

// A repeat has its own time: it goes on when that of the call which it joined is over, and ends
// before if its own is.
func TestRepeatHasItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := waitingNode(t)
		n.do(t, slot("a"))
		first := n.enqueue(slot("b"))
		time.Sleep(time.Second)
		later := n.enqueue(slot("b"))
		short := slot("b")
		short.MaxWait = durationpb.New(2 * time.Second)
		brief := n.enqueue(short)
		time.Sleep(2*time.Second - 1)
		synctest.Wait()
		brief.want(t, "the one with 2s, before", "")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		brief.want(t, "the one with 2s", "denied")
		if got := brief.decision().GetWaited().AsDuration(); got != 2*time.Second {
			t.Errorf("waited %v, want 2s", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		first.want(t, "the first, after 5s", "denied")
		later.want(t, "its repeat, after 4s", "")
		n.do(t, &pb.SettleRequest{Key: "acme", RequestId: "a"})
		later.want(t, "its repeat, when there is room", "allowed")

		c := n.enqueue(slot("c"))
		time.Sleep(time.Second)
		heir := n.enqueue(slot("c"))
		n.Leave(c.waiter) // its repeat has its place
		time.Sleep(4 * time.Second)
		synctest.Wait()
		heir.want(t, "a repeat with the place of another, when the time of that is over", "")
		time.Sleep(time.Second)
		synctest.Wait()
		heir.want(t, "when its own time is over", "denied")
		if n.Waiting().Standard != 0 || n.lines.roots.Load() != 0 {
			t.Errorf("at the end: %+v, %d lines", n.Waiting(), n.lines.roots.Load())
		}
	})
}
