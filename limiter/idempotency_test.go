// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

func tokenLimits() []limiter.Limit {
	return []limiter.Limit{
		{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 6000, Window: time.Minute, Burst: 1000},
		{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.SlidingWindow, Amount: 10, Window: time.Minute},
		{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1_000_000, Calendar: limiter.Day},
		{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 2},
	}
}

func wantConflict(t *testing.T, call string, err error) {
	t.Helper()
	var conflict *limiter.ConflictError
	if !errors.Is(err, limiter.ErrConflict) || !errors.As(err, &conflict) || conflict.Problem == "" {
		t.Fatalf("%s = %v, want a request_id_conflict with its cause", call, err)
	}
}

func TestRepeatedCheckReturnsTheSameDecisionFor30Seconds(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme/alice", ID: "c1", Requests: 1, InputTokens: 100, OutputTokens: 50}
	r.Plan = n.plan(r.Key, tokenLimits()...)
	first := n.check(noon, r)
	n.check(noon.Add(time.Second), &limiter.Request{Key: r.Key, Plan: r.Plan, InputTokens: 500}) // changes the state
	for _, later := range []time.Duration{0, 2 * time.Second, 30*time.Second - 1} {
		again := n.check(noon.Add(later), r)
		wantReplay(t, "Check(c1) after "+later.String(), again, first, n.peek(noon.Add(later), r))
	}
	wantUsed(t, "after the repeats", n.peek(noon.Add(30*time.Second-1), r), 1, 1)
	if d := n.check(noon.Add(30*time.Second), r); d.Replayed {
		t.Errorf("Check(c1) after 30 s: replayed = true, want a new charge")
	}
	wantUsed(t, "after 30 s", n.peek(noon.Add(30*time.Second), r), 1, 2)
}

// Forced checks may be repeated as late as a settle, also after a restart.
func TestForcedCheckIsRememberedFor10Minutes(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme/alice", ID: "f", Requests: 1, Force: true}
	r.Plan = n.plan(r.Key, tokenLimits()...)
	n.check(noon, r)
	for i := range 3 { // other ids expire before it
		n.check(noon.Add(time.Duration(i)*time.Second), &limiter.Request{Key: r.Key, ID: fmt.Sprint(i), Requests: 1, Plan: r.Plan})
	}
	for _, later := range []time.Duration{31 * time.Second, 9*time.Minute + 50*time.Second, 10*time.Minute - 1} {
		at := noon.Add(later)
		p := limiter.PartitionOf(r.Key)
		if err := n.Restore(at, p, n.Snapshot(at, p, nil), nil); err != nil {
			t.Fatalf("Restore after %s: %v", later, err)
		}
		if d := n.check(at, r); !d.Replayed {
			t.Errorf("Check(f) after %s: replayed = false, want true", later)
		}
		n.check(at, &limiter.Request{Key: r.Key, ID: later.String(), Requests: 1, Plan: r.Plan})
	}
	if d := n.check(noon.Add(10*time.Minute), r); d.Replayed {
		t.Error("Check(f) after 10 minutes: replayed = true, want a new charge")
	}
}

func TestRepeatedReserveReturnsTheSameDecisionUntil10MinutesAfterItsEnd(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme/alice", ID: "r1", Requests: 1, InputTokens: 100, OutputTokens: 50, TTL: 20 * time.Second}
	r.Plan = n.plan(r.Key, tokenLimits()...)
	first := n.reserve(noon, r)
	if first.Status != limiter.Held || first.GrantedOutputTokens != 50 {
		t.Fatalf("Reserve(r1) = %s, %d granted, want held, 50", first.Status, first.GrantedOutputTokens)
	}
	same := func(at limiter.Time, when string) {
		t.Helper()
		again := n.reserve(at, r)
		wantReplay(t, "Reserve(r1) "+when, again, first, n.peek(at, r))
	}
	same(noon.Add(10*time.Second), "while held")
	wantUsed(t, "while held", n.peek(noon.Add(10*time.Second), r), 3, 1)
	end := noon.Add(15 * time.Second)
	n.settle(end, limiter.Usage{Key: r.Key, ID: "r1", InputTokens: 100, OutputTokens: 7, Final: true})
	same(end, "after its settle")
	same(end.Add(10*time.Minute-1), "10 minutes later")
	wantUsed(t, "10 minutes later", n.peek(end.Add(10*time.Minute-1), r), 3, 0)
	if d := n.reserve(end.Add(10*time.Minute), r); d.Replayed {
		t.Errorf("Reserve(r1) when forgotten: replayed = true, want a new reservation")
	}
}

func TestRequestIDConflicts(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("acme/alice", tokenLimits()...)
	base := limiter.Request{Key: "acme/alice", Plan: p, Requests: 1, InputTokens: 10, OutputTokens: 10, Costs: []limiter.Cost{{Dimension: "images", Amount: 2}}}
	checked, reserved := base, base
	checked.ID, reserved.ID = "c", "r"
	n.check(noon, &checked)
	n.reserve(noon, &reserved)
	before := n.peek(noon, &base)

	var d limiter.Decision
	for name, change := range map[string]func(*limiter.Request){
		"key":    func(r *limiter.Request) { r.Key = "acme/bob42" },
		"tier":   func(r *limiter.Request) { r.Tier = "other" },
		"model":  func(r *limiter.Request) { r.Model = "other" },
		"count":  func(r *limiter.Request) { r.Requests = 2 },
		"input":  func(r *limiter.Request) { r.InputTokens = 11 },
		"output": func(r *limiter.Request) { r.OutputTokens = 11 },
		"costs":  func(r *limiter.Request) { r.Costs = []limiter.Cost{{Dimension: "images", Amount: 3}} },
		"cost":   func(r *limiter.Request) { r.Costs = []limiter.Cost{{Dimension: "pages", Amount: 2}} },
	} {
		c, r := checked, reserved
		change(&c)
		change(&r)
		wantConflict(t, "Check with another "+name, n.Check(noon, &c, &d))
		wantConflict(t, "Reserve with another "+name, n.Reserve(noon, &r, &d))
	}
	for name, change := range map[string]func(*limiter.Request){
		"min": func(r *limiter.Request) { r.MinOutputTokens = 1 },
		"n":   func(r *limiter.Request) { r.Choices = 2 },
		"ttl": func(r *limiter.Request) { r.TTL = time.Second },
	} {
		r := reserved
		change(&r)
		wantConflict(t, "Reserve with another "+name, n.Reserve(noon, &r, &d))
	}
	checked.ID, reserved.ID = "r", "c"
	wantConflict(t, "Check with a reservation's id", n.Check(noon, &checked, &d))
	wantConflict(t, "Reserve with a check's id", n.Reserve(noon, &reserved, &d))
	sameDecision(t, "state after rejected calls", n.peek(noon, &base), before)

	n.settle(noon, limiter.Usage{Key: base.Key, ID: "r", InputTokens: 10, OutputTokens: 5, Final: true})
	for _, u := range []limiter.Usage{
		{Key: base.Key, ID: "r", InputTokens: 10, OutputTokens: 6, Final: true},
		{Key: base.Key, ID: "r", InputTokens: 9, OutputTokens: 5, Final: true},
		{Key: base.Key, ID: "r", InputTokens: 10, OutputTokens: 5, Final: true, Costs: []limiter.Cost{{Dimension: "images", Amount: 1}}},
	} {
		wantConflict(t, "a second final settle with other numbers", n.Settle(noon, &u, &d))
	}
	wantConflict(t, "Cancel of a settled reservation", n.Cancel(noon, base.Key, "r", &d))

	reserved = base
	reserved.ID = "x"
	n.reserve(noon, &reserved)
	n.cancel(noon, base.Key, "x")
	n.cancel(noon, base.Key, "x") // repeated
	wantConflict(t, "Reserve after a cancel", n.Reserve(noon, &reserved, &d))
	wantConflict(t, "Settle after a cancel", n.Settle(noon, &limiter.Usage{Key: base.Key, ID: "x", Final: true}, &d))
}

func TestSettleAndCancelOfUnknownIDs(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("acme/alice", tokenLimits()...)
	n.reserve(noon, &limiter.Request{Key: "acme/alice", ID: "r", Plan: p, OutputTokens: 10})
	var d limiter.Decision
	for _, c := range []struct{ key, id string }{{"acme/alice", "other"}, {"umbrella/alice", "r"}} {
		if err := n.Settle(noon, &limiter.Usage{Key: c.key, ID: c.id, Final: true}, &d); !errors.Is(err, limiter.ErrUnknownReservation) {
			t.Errorf("Settle(%s, %s) = %v, want unknown reservation", c.key, c.id, err)
		}
		if err := n.Cancel(noon, c.key, c.id, &d); !errors.Is(err, limiter.ErrUnknownReservation) {
			t.Errorf("Cancel(%s, %s) = %v, want unknown reservation", c.key, c.id, err)
		}
	}
}

func TestDeniedIDMayBeTriedAgain(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", tokenLimits()...)
	r := &limiter.Request{Key: "k", ID: "again", Plan: p, InputTokens: 600}
	n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: 1000})
	d := n.check(noon, r)
	wantOutcome(t, "Check(again) while empty", d, limiter.Denied)
	d = n.check(noon.Add(d.RetryAfter), r)
	wantOutcome(t, "Check(again) at retry_after", d, limiter.Allowed)
	if d.Replayed {
		t.Error("Check(again) at retry_after: replayed = true, want a new answer")
	}
	// Also for another operation, because a denial is not remembered.
	r = &limiter.Request{Key: "k", ID: "other", Plan: p, InputTokens: 900}
	wantOutcome(t, "Check(other)", n.check(noon.Add(d.RetryAfter), r), limiter.Denied)
	wantOutcome(t, "Reserve(other)", n.reserve(noon.Add(time.Minute), r), limiter.Allowed)
}

func TestIDsBelongToTheRoot(t *testing.T) {
	n := newNode(t, limiter.Options{})
	for _, key := range []string{"acme/alice", "umbrella/alice"} {
		r := &limiter.Request{Key: key, ID: "same", Plan: n.plan(key, tokenLimits()...), InputTokens: 10}
		if d := n.check(noon, r); d.Replayed {
			t.Errorf("Check(%s): replayed = true, want a charge of its own", key)
		}
	}
	r := &limiter.Request{Key: "acme/bob", ID: "same", Plan: n.plan("acme/bob", tokenLimits()...), InputTokens: 10}
	var d limiter.Decision
	wantConflict(t, "Check of another key of the root", n.Check(noon, r, &d))
}

// TestRepeatedSettlesAreHarmless repeats and reorders progress and the final settle.
func TestRepeatedSettlesAreHarmless(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", tokenLimits()...)
	n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: p, InputTokens: 100, OutputTokens: 100})
	early := limiter.Usage{Key: "k", ID: "r", InputTokens: 100, CachedInputTokens: 40, OutputTokens: 150}
	late := limiter.Usage{Key: "k", ID: "r", InputTokens: 110, CachedInputTokens: 50, OutputTokens: 300}
	final := limiter.Usage{Key: "k", ID: "r", InputTokens: 110, CachedInputTokens: 50, OutputTokens: 120, Final: true}
	for range 2 {
		for _, u := range []limiter.Usage{late, early} {
			wantUsed(t, "progress", n.settle(noon, u), 0, 410)
		}
	}
	for range 2 {
		for _, u := range []limiter.Usage{final, early, late} {
			d := n.settle(noon, u)
			wantUsed(t, "settled", d, 0, 230)
			if d.Status != limiter.Settled {
				t.Errorf("Settle(r) = %s, want settled", d.Status)
			}
		}
	}
}

// TestForgottenIDsAreCounted checks that the ids of a root are bounded, and that live
// reservations are not forgotten to make room for checks.
func TestForgottenIDsAreCounted(t *testing.T) {
	n := newNode(t, limiter.Options{MaxIDs: 64})
	p := n.plan("k", limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 1_000_000, Window: time.Minute})
	n.reserve(noon, &limiter.Request{Key: "k", ID: "held", Plan: p, OutputTokens: 100})
	for i := range 100 {
		id := string(rune('A' + i))
		wantOutcome(t, "Check("+id+")", n.check(noon, &limiter.Request{Key: "k", ID: id, Plan: p, InputTokens: 1}), limiter.Allowed)
	}
	s := n.Stats()
	if s.IDs < 46 || s.IDs > 48 || s.IDs+int(s.Forgotten) != 101 {
		t.Errorf("Stats: %d ids remembered, %d forgotten, want about three quarters of 64, and the rest of 101", s.IDs, s.Forgotten)
	}
	n.settle(noon, limiter.Usage{Key: "k", ID: "held", OutputTokens: 40, Final: true})
}
