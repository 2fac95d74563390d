// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// closedLimits returns a limit of each kind, of which the named one is closed.
func closedLimits(closed string) []limiter.Limit {
	limits := tokenLimits()
	for i := range limits {
		limits[i].Closed = limits[i].Name == closed
	}
	return limits
}

func TestClosedDeniesEveryCost(t *testing.T) {
	for _, c := range []struct {
		closed  string
		costs   limiter.Request // denied
		reserve bool
	}{
		{"tokens", limiter.Request{InputTokens: 1}, false},
		{"tokens", limiter.Request{OutputTokens: 1}, true},
		{"requests", limiter.Request{Requests: 1}, false},
		{"spend", limiter.Request{InputTokens: 1}, false},
		{"spend", limiter.Request{OutputTokens: 500}, true},
		{"slots", limiter.Request{}, true},
	} {
		t.Run(c.closed, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			open := n.plan("k", tokenLimits()...)
			n.check(noon, &limiter.Request{Key: "k", Plan: open, Requests: 1, InputTokens: 10})
			before := n.peek(noon, &limiter.Request{Key: "k", Plan: open})

			r := c.costs
			r.Key, r.Plan, r.ID = "k", n.plan("k", closedLimits(c.closed)...), "r"
			call := n.check
			if c.reserve {
				call = n.reserve
			}
			d := call(noon, &r)
			if d.Outcome != limiter.Denied || d.Reason != limiter.OwnerUnreachable || d.RetryAfter != time.Second {
				t.Fatalf("call = %s (%s), retry after %s, want denied (owner_unreachable), 1s", d.Outcome, d.Reason, d.RetryAfter)
			}
			if b := d.Limits[d.Binding]; b.Name != c.closed || !b.Exceeded {
				t.Errorf("binding = %+v, want %s, exceeded", b, c.closed)
			}
			for i := range d.Limits { // reported, but not charged
				wantUsed(t, "after the denial", d, i, used(before.Limits[i]))
			}
			if c.closed != "requests" && c.closed != "slots" {
				free := limiter.Request{Key: "k", Plan: r.Plan, ID: "free", Requests: 1}
				d := n.reserve(noon, &free)
				wantOutcome(t, "a call that costs nothing of it", d, limiter.Allowed)
				for i, l := range d.Limits {
					if l.Name == c.closed {
						wantUsed(t, "after a free call", d, i, used(before.Limits[i]))
					}
				}
			}
			if c.closed == "slots" {
				wantOutcome(t, "a check takes no slot", n.check(noon, &limiter.Request{Key: "k", Plan: r.Plan, Requests: 1}), limiter.Allowed)
			}
			r.Plan = open
			wantOutcome(t, "open again", call(noon, &r), limiter.Allowed)
		})
	}
}

// TestClosedIsNotShrunk checks that a closed limit does not degrade.
func TestClosedIsNotShrunk(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k",
		limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 100, Window: time.Minute, Degrade: true},
		limiter.Limit{Name: "output", Dimension: limiter.OutputTokens, Algorithm: limiter.TokenBucket, Amount: 1000, Window: time.Minute, Degrade: true, Closed: true})
	d := n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: p, OutputTokens: 200, MinOutputTokens: 16})
	if d.Outcome != limiter.Denied || d.Limits[1].Cost != 200 {
		t.Errorf("Reserve = %s of %d output, want denied for the requested 200", d.Outcome, d.Limits[1].Cost)
	}
	if d.Reason != limiter.ExceedsCapacity || d.RetryAfter >= 0 {
		t.Errorf("reason = %s, retry after %s, want exceeds_capacity, never", d.Reason, d.RetryAfter)
	}
}

// TestReasonOfAClosedLimit checks the precedence of owner_unreachable among the reasons.
func TestReasonOfAClosedLimit(t *testing.T) {
	n := newNode(t, limiter.Options{})
	requests := limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1, Window: time.Hour}
	closed := bucketOf(6000, 0)
	closed.Closed = true
	p := n.plan("k", requests, closed)
	r := &limiter.Request{Key: "k", Plan: p, Requests: 1}
	wantOutcome(t, "the only one", n.check(noon, r), limiter.Allowed)
	if d := n.check(noon, r); d.Reason != limiter.LimitExceeded || d.RetryAfter != time.Hour {
		t.Errorf("another one = %s, retry after %s, want limit_exceeded, 1h", d.Reason, d.RetryAfter)
	}
	r.InputTokens = 7000
	if d := n.check(noon, r); d.Reason != limiter.OwnerUnreachable || d.RetryAfter != time.Second || d.Binding != 1 {
		t.Errorf("one with tokens = %s by %d, retry after %s, want owner_unreachable by 1, 1s", d.Reason, d.Binding, d.RetryAfter)
	}
	r.Requests = 2
	if d := n.check(noon, r); d.Reason != limiter.ExceedsCapacity || d.RetryAfter >= 0 || d.Binding != 0 {
		t.Errorf("two with tokens = %s by %d, retry after %s, want exceeds_capacity by 0, never", d.Reason, d.Binding, d.RetryAfter)
	}
	p.Levels[0].Limits = mustSet(t, n.catalog, closed, limiter.Limit{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1, Window: time.Hour, Closed: true})
	p.Rates.Priced = false
	if d := n.check(noon, r); d.Reason != limiter.NoPrice || d.RetryAfter >= 0 {
		t.Errorf("a call without a price = %s, retry after %s, want no_price, never", d.Reason, d.RetryAfter)
	}
}

// TestCostAboveTheShareNeedsTheOwner checks costs within and above FullCapacity.
func TestCostAboveTheShareNeedsTheOwner(t *testing.T) {
	n := newNode(t, limiter.Options{})
	share := bucketOf(100, 30)
	share.FullCapacity = 90
	p := n.plan("k", share)
	for _, c := range []struct {
		cost   int64
		reason limiter.Reason
		wait   time.Duration
	}{{31, limiter.OwnerUnreachable, time.Second}, {90, limiter.OwnerUnreachable, time.Second}, {91, limiter.ExceedsCapacity, -1}, {30, limiter.NoReason, 0}, {5, limiter.LimitExceeded, 3 * time.Second}} {
		d := n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: c.cost})
		if d.Reason != c.reason || d.RetryAfter != c.wait {
			t.Errorf("%d of a share of 30 of 90 = %s (%s), retry after %s, want %q, %s", c.cost, d.Outcome, d.Reason, d.RetryAfter, c.reason, c.wait)
		}
	}
}
