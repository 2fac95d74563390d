// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// byFallback returns checks that members decided in turns, one per millisecond.
func byFallback(n int, members ...string) []bench.Event {
	var events []bench.Event
	for i := range n {
		answer := bench.Answer{Outcome: bench.Allowed, Route: "fallback", Owner: members[i%len(members)]}
		events = append(events, event(bench.OpCheck, check("k", i, 1), at(i), at(i)+ms/2, answer))
	}
	return events
}

// Each member has its own share, which refills like the limit.
func TestShares(t *testing.T) {
	none := requests(90)
	bucket := audit.Limit{Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: 90, Window: 90 * ms}
	burst := audit.Limit{Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: 90, Window: time.Hour, Burst: 9}
	sliding := audit.Limit{Dimension: audit.Requests, Algorithm: audit.SlidingWindow, Amount: 30, Window: 30 * ms}
	for _, tt := range []struct {
		name   string
		limit  audit.Limit
		events []bench.Event
		beyond int64
	}{
		{"one member, its share", none, byFallback(30, "a"), 0},
		{"one member, more", none, byFallback(31, "a"), 1},
		{"three members, the limit", none, byFallback(90, "a", "b", "c"), 0},
		{"three members, one more each", none, byFallback(93, "a", "b", "c"), 3},
		{"members without a name, the limit", none, byFallback(90, ""), 0},
		{"members without a name, more", none, byFallback(95, ""), 5},
		{"one more by each of two kinds", none, append(byFallback(31, "a"), renamed(byFallback(91, ""))...), 2},
		{"a burst", burst, byFallback(3, "a"), 0},
		{"more than a burst", burst, byFallback(5, "a"), 2},
		{"a bucket that refills", bucket, byFallback(60, "a", "b", "c"), 0},
		{"a bucket that does not refill so fast", bucket, byFallback(90, "a"), 30 + 1}, // 90 in 89.5 ms: 30 and 29.8
		{"a window", sliding, byFallback(40, "a", "b", "c"), 0},
		{"a window, more", sliding, byFallback(40, "a", "b"), 2 * 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.limit.Fallback = audit.FallbackShare
			r := run(t, audit.Options{Limits: []audit.Limit{tt.limit}, Members: 3}, tt.events)
			if d := dimension(t, r, audit.Requests); d.BeyondBound != tt.beyond || d.Over != 0 || r.OK != (tt.beyond == 0) {
				t.Errorf("ok %v, %+v, want %d beyond", r.OK, d, tt.beyond)
			}
		})
	}
}

// renamed changes the ids of calls.
func renamed(events []bench.Event) []bench.Event {
	for i := range events {
		c := *events[i].Call
		c.ID += "-again"
		events[i].Call = &c
	}
	return events
}

// Concurrency limits in the modes closed and share.
func TestSharesOfConcurrency(t *testing.T) {
	var events []bench.Event
	for i := range 10 {
		reserved, settled := llm("k", i, 20)
		reserved2 := event(bench.OpReserve, reserved, at(i), at(i)+ms/2, bench.Answer{Outcome: bench.Allowed, Route: "fallback", Owner: "a"})
		events = append(events, reserved2, settled[1])
	}
	for mode, want := range map[audit.FallbackMode]int64{audit.FallbackClosed: 10, audit.FallbackShare: 5, audit.FallbackOpen: 0} {
		limit := audit.Limit{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 15, Fallback: mode}
		r := run(t, audit.Options{Limits: []audit.Limit{limit}, Members: 3}, events)
		if d := dimension(t, r, audit.Concurrent); d.BeyondBound != want {
			t.Errorf("%s: %+v, want %d beyond", mode, d, want)
		}
	}
}

// Limits of one state can declare different modes.
func TestTheMostPermissiveModeApplies(t *testing.T) {
	free, paid := requests(10), requests(10)
	free.Tier, free.Fallback = "free", audit.FallbackClosed
	paid.Tier, paid.Fallback = "paid", audit.FallbackOpen
	events := byFallback(5, "a")
	for i := range events {
		c := *events[i].Call
		c.Tier = []string{"free", "paid"}[i%2]
		events[i].Call = &c
	}
	if r := run(t, audit.Options{Limits: []audit.Limit{free, paid}, Members: 3}, events); !r.OK {
		t.Errorf("closed and open: %s", r.Summary())
	}
}

func TestManyMembers(t *testing.T) {
	var events []bench.Event
	for i := range 300 {
		e := byFallback(1, fmt.Sprint("m", i))[0]
		e.Call = check("k", i, 1)
		events = append(events, e)
	}
	limit := requests(600)
	limit.Fallback = audit.FallbackShare
	r := run(t, audit.Options{Limits: []audit.Limit{limit}, Members: 300}, events)
	if d := dimension(t, r, audit.Requests); d.BeyondBound != 0 || d.Fallback != 300 {
		t.Errorf("%+v, want 300 admitted, none beyond", d)
	}
}

// A call that was denied in fallback must not be charged, even if its owner has decided
// it late. The finding names it.
func TestDeniedInFallbackIsNotCharged(t *testing.T) {
	denied := bench.Answer{Outcome: bench.Denied, Reason: "owner_unreachable", Route: "fallback", Owner: "a"}
	events := []bench.Event{
		event(bench.OpCheck, check("k", 0, 1), at(0), at(0)+ms/2, bench.Answer{Outcome: bench.Allowed, Route: "local", Owner: "b"}),
		event(bench.OpCheck, check("k", 1, 3), at(1), at(1)+ms/2, denied),
	}
	for used, excess := range map[int64]int64{1: 0, 4: 3} {
		r := run(t, audit.Options{Limits: []audit.Limit{requests(90)}, Members: 3}, events, usedOf("k", audit.Requests, used))
		if d := dimension(t, r, audit.Requests); d.Excess != excess || d.Missing != 0 || r.OK != (excess == 0) {
			t.Errorf("%d used: ok %v, %+v, want an excess of %d", used, r.OK, d, excess)
		}
		for _, c := range r.Charges {
			want := []audit.Suspect{{ID: events[1].Call.ID, Why: "denied without its owner", Cost: 3}}
			if !slices.Equal(c.Suspects, want) {
				t.Errorf("suspects = %+v, want %+v", c.Suspects, want)
			}
		}
	}
}

// What an owner had charged for a check that was denied in fallback may stay in a token bucket:
// the bucket has refilled it since. A reserve is always given back in whole.
func TestDeniedInFallbackMayStayInATokenBucket(t *testing.T) {
	limit := requests(90)
	limit.Algorithm, limit.Window = audit.TokenBucket, 24*time.Hour
	for op, excess := range map[bench.Op][3]int64{bench.OpCheck: {0, 0, 1}, bench.OpReserve: {0, 3, 4}} {
		denied := event(op, check("k", 1, 3), at(1), at(1)+ms/2, bench.Answer{Outcome: bench.Denied, Reason: "owner_unreachable", Route: "fallback", Owner: "a"})
		events := []bench.Event{
			event(bench.OpCheck, check("k", 0, 1), at(0), at(0)+ms/2, bench.Answer{Outcome: bench.Allowed, Route: "local", Owner: "b"}),
			denied,
		}
		for i, used := range []int64{1, 4, 5} {
			final := usedOf("k", audit.Requests, used)
			final.Sent, final.Done = at(2), at(2)+ms/2
			r := run(t, audit.Options{Limits: []audit.Limit{limit}, Members: 3}, events, final)
			if d := dimension(t, r, audit.Requests); d.Compared != 1 || d.Excess != excess[i] || d.Missing != 0 {
				t.Errorf("%v, %d used: %+v, want an excess of %d", op, used, d, excess[i])
			}
		}
	}
}
