// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// A reservation that settles at usage A leaves the state that charging A at reserve time
// would have left, however many others overlap it and however often the bucket was full
// in between. These tests compare two engines.

// A call is one reservation of a random history, from its reserve to its end.
type call struct {
	at, ends        time.Duration
	ttl             time.Duration
	estimate, usage int64
	how             string // settle, cancel, expire or late
}

func drawCalls(t *rapid.T) []call {
	calls := make([]call, rapid.SampledFrom([]int{1, 2, 5, 20, 60}).Draw(t, "calls"))
	var at, end time.Duration
	for i := range calls {
		pace := rapid.SampledFrom([]time.Duration{100 * time.Millisecond, 100 * time.Millisecond, 2 * time.Second, 20 * time.Second}).Draw(t, "pace")
		at += time.Duration(rapid.Int64Range(0, int64(pace)).Draw(t, "gap")) // may be long enough to refill
		c := &calls[i]
		c.at, c.ttl = at, 30*time.Second
		c.ends = at + time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "lasts"))
		c.estimate = rapid.Int64Range(0, 70).Draw(t, "estimate")
		c.usage = rapid.Int64Range(0, 90).Draw(t, "usage")
		c.how = rapid.SampledFrom([]string{"settle", "settle", "settle", "cancel", "expire", "late"}).Draw(t, "how")
		if rapid.IntRange(0, 15).Draw(t, "long") == 15 {
			c.how = "long"
		}
		switch c.how {
		case "cancel":
			c.usage = 0
		case "expire":
			c.usage = 0 // without input and progress nothing stays charged
			c.ends = at + c.ttl
		case "late":
			c.ends += c.ttl
		case "long":
			c.ttl = time.Hour
		}
		end = max(end, c.ends)
	}
	for i := range calls { // the long ones end together, after all others
		if calls[i].how == "long" {
			calls[i].how, calls[i].ends = "settle", end
		}
	}
	return calls
}

// Nothing is denied, so that both engines make the same calls.
func TestSettlingEqualsChargingTheUsageAtReserve(t *testing.T) {
	testSettling(t, false, []limiter.Limit{
		{Name: "bucket", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 997, Window: time.Minute, Burst: 100_000},
		{Name: "sliding", Dimension: limiter.Tokens, Algorithm: limiter.SlidingWindow, Amount: 100_000, Window: time.Minute},
		{Name: "fixed", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1_000_000, Calendar: limiter.Day},
		{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 100},
	})
}

// TestForcedSettlingEqualsForcingTheUsageAtReserve checks the same for forced calls beyond
// the limits. The bucket's debt stays below its maximum, because what is dropped above
// that depends on the order.
func TestForcedSettlingEqualsForcingTheUsageAtReserve(t *testing.T) {
	testSettling(t, true, []limiter.Limit{
		{Name: "bucket", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 997, Window: time.Minute, Burst: 60 * 90 / 2},
		{Name: "sliding", Dimension: limiter.Tokens, Algorithm: limiter.SlidingWindow, Amount: 20, Window: time.Minute},
		{Name: "fixed", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 20, Calendar: limiter.Day},
		{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 1},
	})
}

func testSettling(t *testing.T, force bool, limits []limiter.Limit) {
	rapid.Check(t, func(rt *rapid.T) {
		calls := drawCalls(rt)
		held, charged := newNode(t, limiter.Options{}), newNode(t, limiter.Options{})
		heldPlan, chargedPlan := held.plan("k", limits...), charged.plan("k", limits...)

		type event struct {
			at time.Duration
			do func(limiter.Time)
		}
		var events []event
		for i, c := range calls {
			id := fmt.Sprint(i)
			events = append(events, event{c.at, func(now limiter.Time) {
				held.reserve(now, &limiter.Request{Key: "k", ID: id, Plan: heldPlan, OutputTokens: c.estimate, TTL: c.ttl, Force: force})
				charged.check(now, &limiter.Request{Key: "k", Plan: chargedPlan, OutputTokens: c.usage, Force: force})
			}})
			switch c.how {
			case "settle", "late":
				events = append(events, event{c.ends, func(now limiter.Time) {
					held.settle(now, limiter.Usage{Key: "k", ID: id, InputTokens: 0, OutputTokens: c.usage, Final: true})
				}})
			case "cancel":
				events = append(events, event{c.ends, func(now limiter.Time) { held.cancel(now, "k", id) }})
			}
		}
		slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
		for _, e := range events {
			e.do(noon.Add(e.at))
		}
		end := noon.Add(events[len(events)-1].at)
		for _, c := range calls {
			end = noon.Add(max(time.Duration(end.Mono-noon.Mono), c.ends))
		}
		for _, later := range []time.Duration{0, time.Nanosecond, 777 * time.Millisecond, 10 * time.Second, time.Hour} {
			now := end.Add(later)
			got := held.peek(now, &limiter.Request{Key: "k", Plan: heldPlan})
			want := charged.peek(now, &limiter.Request{Key: "k", Plan: chargedPlan})
			sameDecision(rt, fmt.Sprintf("state %s after the end", later), got, want)
		}
	})
}

// TestRefundIsLimitedByRefillSinceTheReserve checks that nothing is refunded to a bucket
// that was full again since the reserve.
func TestRefundIsLimitedByRefillSinceTheReserve(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", limiter.Limit{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 600, Window: time.Minute, Burst: 1000})
	look := &limiter.Request{Key: "k", Plan: p}

	n.reserve(noon, &limiter.Request{Key: "k", ID: "a", Plan: p, OutputTokens: 100})
	wantUsed(t, "after 5 s", n.peek(noon.Add(5*time.Second), look), 0, 50)
	n.check(noon.Add(20*time.Second), &limiter.Request{Key: "k", Plan: p, OutputTokens: 500})
	d := n.settle(noon.Add(20*time.Second), limiter.Usage{Key: "k", ID: "a", OutputTokens: 10, Final: true})
	wantUsed(t, "settle a=10, all of a had been refilled", d, 0, 500)

	n.reserve(noon.Add(21*time.Second), &limiter.Request{Key: "k", ID: "b", Plan: p, OutputTokens: 100})
	d = n.settle(noon.Add(22*time.Second), limiter.Usage{Key: "k", ID: "b", OutputTokens: 40, Final: true})
	wantUsed(t, "settle b=40 of 100", d, 0, 500-20+40)
}

// TestOverageUsesWastedRefill checks that usage beyond the estimate is offset by refill
// that was wasted while the bucket was full.
func TestOverageUsesWastedRefill(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", limiter.Limit{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 600, Window: time.Minute, Burst: 1000})
	n.reserve(noon, &limiter.Request{Key: "k", ID: "a", Plan: p, OutputTokens: 100})
	// 10 s refill the 100; 10 s more are wasted, worth another 100.
	d := n.settle(noon.Add(20*time.Second), limiter.Usage{Key: "k", ID: "a", OutputTokens: 250, Final: true})
	wantUsed(t, "settle a=250 after 20 s", d, 0, 50)
}

// TestDebtStopsAtOneCapacity checks that usage beyond the maximum debt is counted as
// overrun and not charged.
func TestDebtStopsAtOneCapacity(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k",
		limiter.Limit{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 600, Window: time.Minute, Burst: 1000},
		limiter.Limit{Name: "day", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 10_000, Calendar: limiter.Day})
	n.reserve(noon, &limiter.Request{Key: "k", ID: "a", Plan: p, OutputTokens: 1000})
	d := n.settle(noon, limiter.Usage{Key: "k", ID: "a", OutputTokens: 50_000, Final: true})
	if got := d.Limits[0].Debt; got != 1000 {
		t.Errorf("Settle(a, 50000): debt = %d, want one capacity, 1000", got)
	}
	if got := d.Limits[0].Cost; got != 2000 {
		t.Errorf("Settle(a, 50000): charged %d tokens, want 2000", got)
	}
	if got := n.Stats().Overrun[limiter.Tokens]; got != 48_000 {
		t.Errorf("overrun = %d tokens, want 48000", got)
	}
	if got := used(d.Limits[1]); got != 100_000 {
		t.Errorf("Settle(a, 50000): spend used = %d, want all 100000: a budget counts in full", got)
	}
}
