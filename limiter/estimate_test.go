// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// hugeCall is the usage of a call in a test of the limit over time.
type hugeCall struct{ estimate, input, output int64 }

// TestHugeCallsStayWithinTheLimitOverTime checks that a caller who sends calls far above
// a limit, one after the other as soon as each is admitted, uses no more over time than
// the capacity, the refill and one call.
func TestHugeCallsStayWithinTheLimitOverTime(t *testing.T) {
	const capacity, rate, window = 1000, 600, time.Minute
	tests := map[string]hugeCall{
		"a prompt far above the capacity":      {100_000, 90_000, 10},
		"an estimate far too low":              {2000, 300_000, 10}, // such as stored turns of a conversation
		"a small estimate":                     {10, 50_000, 10},
		"output without a bound":               {10, 10, 70_000},
		"an estimate that is right":            {5000, 5000, 0},
		"a prompt just above twice a capacity": {900, 2001, 0},
	}
	for name, huge := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			p := n.plan("k", limiter.Limit{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: rate, Window: window, Burst: capacity})
			p.DefaultOutput = 50
			used, now := int64(0), noon
			for i := range 20 {
				id := fmt.Sprint("call", i)
				d := n.reserve(now, &limiter.Request{Key: "k", ID: id, Plan: p, InputTokens: huge.estimate, EstimatedInput: true, OutputTokens: -1})
				if d.Outcome == limiter.Denied {
					if d.Reason != limiter.LimitExceeded {
						t.Fatalf("reserve %d: denied with %s, want a time to wait", i, d.Reason)
					}
					now = now.Add(d.RetryAfter)
					d = n.reserve(now, &limiter.Request{Key: "k", ID: id, Plan: p, InputTokens: huge.estimate, EstimatedInput: true, OutputTokens: -1})
				}
				wantOutcome(t, "after the wait, "+id, d, limiter.Allowed)
				n.settle(now.Add(time.Second), limiter.Usage{Key: "k", ID: id, InputTokens: huge.input, OutputTokens: huge.output, Final: true})
				used += huge.input + huge.output
				now = now.Add(time.Second)
				elapsed := time.Duration(now.Mono - noon.Mono)
				if most := capacity + int64(elapsed)*rate/int64(window) + huge.input + huge.output; used > most {
					t.Fatalf("after %d calls in %v: %d tokens used, want at most %d: capacity, refill and one call", i+1, elapsed, used, most)
				}
			}
			if got := n.Stats().Overrun[limiter.Tokens]; got != 0 {
				t.Errorf("overrun = %d tokens, want 0: everything is charged", got)
			}
		})
	}
}

// TestKnownInputAboveTheCapacityIsDenied checks that an estimate is reduced to the
// capacity, but never below what is known of the input.
func TestKnownInputAboveTheCapacityIsDenied(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", limiter.Limit{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 600, Window: time.Minute, Burst: 1000})
	reserve := func(id string, known int64) limiter.Decision {
		return n.reserve(noon, &limiter.Request{Key: "k", ID: id, Plan: p, InputTokens: 5000, EstimatedInput: true, KnownInput: known, OutputTokens: 100})
	}
	for _, known := range []int64{901, 1000, 1001, 5000} {
		d := reserve(fmt.Sprint("known", known), known)
		wantOutcome(t, fmt.Sprintf("%d known", known), d, limiter.Denied)
		if d.Reason != limiter.ExceedsCapacity || d.RetryAfter >= 0 {
			t.Errorf("known input %d with 100 of output: reason = %s, retry after %v, want exceeds_capacity and no time", known, d.Reason, d.RetryAfter)
		}
	}
	d := reserve("fits", 900)
	wantOutcome(t, "900 known", d, limiter.Allowed)
	wantUsed(t, "900 known and 100 of output", d, 0, 1000)
}

// TestDebtOfEstimatedInputStopsAtTheLargestAmount checks that a level cannot overflow,
// whatever the settles of calls that run at the same time report.
func TestDebtOfEstimatedInputStopsAtTheLargestAmount(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", limiter.Limit{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 600, Window: time.Minute})
	for i := range 3 {
		n.reserve(noon, &limiter.Request{Key: "k", ID: fmt.Sprint(i), Plan: p, EstimatedInput: true})
	}
	for i := range 3 {
		d := n.settle(noon, limiter.Usage{Key: "k", ID: fmt.Sprint(i), InputTokens: limiter.MaxAmount, Final: true})
		if got, want := d.Limits[0].Debt, int64(limiter.MaxAmount-600); i == 0 && got != want || i > 0 && got != limiter.MaxAmount {
			t.Errorf("settle %d of 2^53 tokens: debt = %d, want at most 2^53", i, got)
		}
	}
	d := n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: 1})
	wantOutcome(t, "in debt", d, limiter.Denied)
}
