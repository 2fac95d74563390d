// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// The properties in property_test.go force every sixth call. The tests in this file
// check the rest.

// forced returns r with Force set.
func forced(r limiter.Request) *limiter.Request {
	r.Force = true
	return &r
}

// TestForcedCallsAreChargedInFull forces calls on full limits of every kind on two
// levels.
func TestForcedCallsAreChargedInFull(t *testing.T) {
	n := newNode(t, limiter.Options{})
	set := mustSet(t, n.catalog, append(tokenLimits(),
		limiter.Limit{Name: "shadow", Dimension: limiter.InputTokens, Algorithm: limiter.FixedWindow, Amount: 100, Window: time.Hour, Shadow: true},
		limiter.Limit{Name: "closed", Dimension: "images", Algorithm: limiter.TokenBucket, Amount: 100, Window: time.Hour, Closed: true},
		limiter.Limit{Name: "degrade", Dimension: limiter.OutputTokens, Algorithm: limiter.TokenBucket, Amount: 500, Window: time.Hour, Degrade: true})...)
	r := limiter.Request{Key: "acme/alice", Plan: plan("acme/alice", set, set), Requests: 8, InputTokens: 600, OutputTokens: 300, Costs: []limiter.Cost{{Dimension: "images", Amount: 30}}}
	want := []int64{0, 0, 0, 0, 0, 0, 0} // tokens, requests, spend, slots, shadow, closed, degrade
	expect := func(call string, d limiter.Decision) {
		t.Helper()
		wantOutcome(t, call, d, limiter.Allowed)
		if d.Reason != limiter.NoReason || d.RetryAfter != 0 {
			t.Fatalf("%s: reason %s, retry after %s, want neither", call, d.Reason, d.RetryAfter)
		}
		for i := range 14 {
			wantUsed(t, call, d, i, want[i%7])
			if l := &d.Limits[i]; l.Exceeded || l.Debt != max(0, want[i%7]-l.Capacity) {
				t.Fatalf("%s: %s exceeded = %t, debt = %d, want false and the usage above the capacity", call, l.Name, l.Exceeded, l.Debt)
			}
		}
	}
	want = []int64{900, 8, 1200, 0, 600, 30, 300}
	expect("the first", n.check(noon, forced(r)))
	want = []int64{1800, 16, 2400, 0, 1200, 60, 600}
	expect("the second", n.check(noon, forced(r)))
	r.ID = "a"
	want = []int64{2000, 24, 3600, 1, 1800, 90, 900} // the debt of a bucket stops at one capacity
	d := n.reserve(noon, forced(r))
	expect("a reserve", d)
	if d.GrantedOutputTokens != 300 || d.Status != limiter.Held {
		t.Errorf("a reserve grants %d and is %s, want the requested 300, and held", d.GrantedOutputTokens, d.Status)
	}
	if got := d.Limits[0].Cost; got != 200 {
		t.Errorf("a reserve takes %d tokens, want the 200 up to the maximum debt", got)
	}
	r.ID = "b"
	want = []int64{2000, 32, 4800, 2, 2400, 120, 1000}
	expect("another", n.reserve(noon, forced(r)))
	r.ID = "c"
	want = []int64{2000, 40, 6000, 3, 3000, 150, 1000}
	expect("a third, of two slots", n.reserve(noon, forced(r)))
	over := map[limiter.Dimension]int64{limiter.Tokens: 2 * (700 + 900 + 900), limiter.OutputTokens: 2 * (200 + 300)}
	if got := n.Stats().Overrun; len(got) != 2 || got[limiter.Tokens] != over[limiter.Tokens] || got[limiter.OutputTokens] != over[limiter.OutputTokens] {
		t.Errorf("overrun = %v, want %v", got, over)
	}

	one := limiter.Request{Key: "acme/alice", Plan: r.Plan, Requests: 1, ID: "d"}
	wantOutcome(t, "a request that is not forced", n.reserve(noon, &one), limiter.Denied)
	n.cancel(noon, "acme/alice", "c")
	n.cancel(noon, "acme/alice", "b")
	want = []int64{2000, 24, 3600, 1, 1800, 90, 900}
	for i, l := range n.peek(noon, &one).Limits {
		if got := used(l); got != want[i%7] {
			t.Errorf("%s of %s after two were cancelled: used = %d, want %d", l.Name, l.Scope, got, want[i%7])
		}
	}
}

// TestForcedCallsAreRepaid checks the wait after forced charges.
func TestForcedCallsAreRepaid(t *testing.T) {
	for _, c := range []struct {
		algorithm limiter.Algorithm
		used      int64
		after     time.Duration // until one unit fits
	}{
		{limiter.TokenBucket, 200, 100*time.Minute + time.Minute},
		{limiter.SlidingWindow, 250, 100*time.Minute + 100*time.Minute/64}, // on the border of a sub-window
		{limiter.FixedWindow, 250, 100 * time.Minute},
	} {
		n := newNode(t, limiter.Options{})
		p := n.plan("k", limiter.Limit{Name: "x", Dimension: limiter.Tokens, Algorithm: c.algorithm, Amount: 100, Window: 100 * time.Minute})
		r := limiter.Request{Key: "k", Plan: p, InputTokens: 50}
		start := limiter.Time{Mono: 0, Wall: int64(100*time.Minute) * 1000}
		for range 5 {
			wantUsed(t, c.algorithm.String(), n.check(start, forced(r)), 0, used(n.peek(start, &r).Limits[0]))
		}
		wantUsed(t, c.algorithm.String(), n.peek(start, &r), 0, c.used)
		r.InputTokens = 1
		d := n.check(start, &r)
		if d.Outcome != limiter.Denied || d.Reason != limiter.LimitExceeded || d.RetryAfter != c.after {
			t.Errorf("%s: one more = %s (%s), retry after %s, want denied (limit_exceeded), %s", c.algorithm, d.Outcome, d.Reason, d.RetryAfter, c.after)
		}
		wantOutcome(t, "just before", n.check(start.Add(c.after-1), &r), limiter.Denied)
		wantOutcome(t, "then", n.check(start.Add(c.after), &r), limiter.Allowed)
	}
}

// TestForcedIDsAreChargedOnce checks that an id is charged once, forced or not.
func TestForcedIDsAreChargedOnce(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", bucketOf(600, 1000))
	for _, c := range []struct {
		name string
		call func(limiter.Time, *limiter.Request, *limiter.Decision) error
	}{{"Check", n.Check}, {"Reserve", n.Reserve}} {
		for _, order := range [][2]bool{{true, true}, {false, true}, {true, false}} {
			id := fmt.Sprint(c.name, order)
			before := used(n.peek(noon, &limiter.Request{Key: "k", Plan: p}).Limits[0])
			var first, second limiter.Decision
			for i, d := range []*limiter.Decision{&first, &second} {
				if err := c.call(noon, &limiter.Request{Key: "k", Plan: p, ID: id, InputTokens: 100, Force: order[i]}, d); err != nil {
					t.Fatalf("%s, call %d = %v, want a decision", id, i, err)
				}
			}
			if first.Replayed || !second.Replayed {
				t.Errorf("%s: replayed = %t, %t, want the second", id, first.Replayed, second.Replayed)
			}
			second.Replayed = false
			sameDecision(t, id+" replayed", second, first)
			wantUsed(t, id, n.peek(noon, &limiter.Request{Key: "k", Plan: p}), 0, before+100)

			var d limiter.Decision
			wantConflict(t, id+" with other numbers", c.call(noon, &limiter.Request{Key: "k", Plan: p, ID: id, InputTokens: 101, Force: true}, &d))
		}
	}
	full := limiter.Request{Key: "k", Plan: p, ID: "denied", InputTokens: 900}
	wantOutcome(t, "900 more", n.check(noon, &full), limiter.Denied)
	d := n.check(noon, forced(full))
	wantUsed(t, "a denied id, forced", d, 0, 1500)
	if d.Replayed {
		t.Error("a denied id, forced, is replayed, want a charge: a denial is not remembered")
	}
	cancelled := limiter.Request{Key: "k", Plan: p, ID: "gone"}
	n.reserve(noon, &cancelled)
	n.cancel(noon, "k", "gone")
	wantConflict(t, "a cancelled id, forced", n.Reserve(noon, forced(cancelled), &d))
	wantConflict(t, "a check's id, forced as a reserve", n.Reserve(noon, forced(full), &d))
}

// TestForcedWithoutAPrice checks that the other costs are charged.
func TestForcedWithoutAPrice(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", tokenLimits()...)
	p.Rates.Priced = false
	r := limiter.Request{Key: "k", Plan: p, InputTokens: 100}
	if d := n.check(noon, &r); d.Reason != limiter.NoPrice {
		t.Fatalf("a call without a price = %s (%s), want no_price", d.Outcome, d.Reason)
	}
	d := n.check(noon, forced(r))
	wantOutcome(t, "forced", d, limiter.Allowed)
	wantUsed(t, "tokens", d, 0, 100)
	wantUsed(t, "spend", d, 2, 0)
}

// TestForcedNeedsRoom checks that a forced call without room for its state is denied.
func TestForcedNeedsRoom(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeysPerRoot: 2, MaxIDs: 1})
	money := mustSet(t, n.catalog, budget(limiter.Day, time.UTC))
	org := mustSet(t, n.catalog, bucketOf(600, 1000))
	flood(n, noon, "acme", money, 2, 10)
	n.check(noon, &limiter.Request{Key: "acme", Plan: plan("acme", org), InputTokens: 1})
	d := n.check(noon, &limiter.Request{Key: "acme/new", Plan: plan("acme/new", org, money), InputTokens: 5, Force: true})
	if d.Outcome != limiter.Denied || d.Reason != limiter.TableFull || d.RetryAfter != 12*time.Hour {
		t.Errorf("a forced call for a key without room = %s (%s), want denied (table_full)", d.Outcome, d.Reason)
	}
	n.reserve(noon, &limiter.Request{Key: "acme", Plan: plan("acme", org), ID: "a"})
	d = n.reserve(noon, &limiter.Request{Key: "acme", Plan: plan("acme", org), ID: "b", InputTokens: 5, Force: true})
	if d.Outcome != limiter.Denied || d.Reason != limiter.IDsFull {
		t.Errorf("a forced reserve without room for its id = %s (%s), want denied (ids_full)", d.Outcome, d.Reason)
	}
	wantUsed(t, "the root", n.peek(noon, &limiter.Request{Key: "acme", Plan: plan("acme", org)}), 0, 1)
}

// TestForcedResetsNoVictim checks that a forced charge does not make a denied key
// evictable.
func TestForcedResetsNoVictim(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeysPerRoot: 32})
	tokens := mustSet(t, n.catalog, bucketOf(600, 1000))
	r := limiter.Request{Key: "acme/denied", Plan: plan("acme/denied", nil, tokens), InputTokens: 10}
	n.check(noon, &r)
	r.InputTokens = 1001
	wantOutcome(t, "too much", n.check(noon, &r), limiter.Denied)
	r.InputTokens = 10
	n.check(noon, forced(r))
	flood(n, noon, "acme", tokens, 2000, 100)
	wantUsed(t, "after the flood", n.peek(noon.Add(time.Second), &r), 0, 10)
}

// TestForcedNumbersNeverOverflow forces the largest cost until the counts are full. The
// state can still be restored.
func TestForcedNumbersNeverOverflow(t *testing.T) {
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.SlidingWindow, limiter.FixedWindow} {
		n := newNode(t, limiter.Options{})
		p := n.plan("k", limiter.Limit{Name: "x", Dimension: limiter.InputTokens, Algorithm: a, Amount: most, Window: time.Hour}, bucketOf(most, most))
		r := limiter.Request{Key: "k", Plan: p, InputTokens: most}
		p.Rates.Priced = false
		var rejected *limiter.FieldError
		for i := range 2000 {
			var d limiter.Decision
			now := noon.Add(time.Duration(i) * time.Second)
			before := n.peek(now, &r)
			err := n.Check(now, forced(r), &d)
			if err == nil && d.Outcome == limiter.Allowed && used(d.Limits[0]) >= used(before.Limits[0]) {
				continue
			}
			if !errors.As(err, &rejected) || rejected.Field != string(limiter.InputTokens) {
				t.Fatalf("%s, call %d = %s, %v, want allowed, or an error that names input_tokens", a, i, d.Outcome, err)
			}
			sameDecision(t, "after a rejected call", n.peek(now, &r), before)
			break
		}
		if (rejected != nil) != (a != limiter.TokenBucket) {
			t.Errorf("%s: 2000 times 2^53: error = %v, want one except for a bucket", a, rejected)
		}
		now := noon.Add(time.Hour / 2)
		if err := n.Restore(now, limiter.PartitionOf("k"), n.Snapshot(now, limiter.PartitionOf("k"), nil), nil); err != nil {
			t.Errorf("%s: Restore of counters at their limit = %v, want no error", a, err)
		}
	}
}

// TestForcedSettleEqualsForcingTheUsage checks that a forced reservation that settles at
// most at its estimate leaves the same state, overrun included, as forcing the usage,
// whatever the debt was before.
func TestForcedSettleEqualsForcingTheUsage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limits := []limiter.Limit{bucketOf(600, 100), {Name: "sliding", Dimension: limiter.Tokens, Algorithm: limiter.SlidingWindow, Amount: 50, Window: time.Minute}}
		held, charged := newNode(t, limiter.Options{}), newNode(t, limiter.Options{})
		heldPlan, chargedPlan := held.plan("k", limits...), charged.plan("k", limits...)
		both := func(now limiter.Time, tokens int64) {
			held.check(now, &limiter.Request{Key: "k", Plan: heldPlan, InputTokens: tokens, Force: true})
			charged.check(now, &limiter.Request{Key: "k", Plan: chargedPlan, InputTokens: tokens, Force: true})
		}
		both(noon, rapid.Int64Range(0, 300).Draw(rt, "before"))
		now := noon.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(rt, "gap")))
		estimate := rapid.Int64Range(0, 400).Draw(rt, "estimate")
		usage := rapid.Int64Range(0, estimate).Draw(rt, "usage")
		held.reserve(now, &limiter.Request{Key: "k", ID: "r", Plan: heldPlan, InputTokens: estimate, Force: true})
		charged.check(now, &limiter.Request{Key: "k", Plan: chargedPlan, InputTokens: usage, Force: true})
		now = now.Add(time.Duration(rapid.Int64Range(0, int64(25*time.Second)).Draw(rt, "runs")))
		held.settle(now, limiter.Usage{Key: "k", ID: "r", InputTokens: usage, OutputTokens: 0, Final: true})
		for _, later := range []time.Duration{0, 777 * time.Millisecond, 10 * time.Second} {
			look := limiter.Request{Key: "k", Plan: chargedPlan}
			want := charged.peek(now.Add(later), &look)
			look.Plan = heldPlan
			sameDecision(rt, fmt.Sprintf("state %s after the settle", later), held.peek(now.Add(later), &look), want)
		}
	})
}
