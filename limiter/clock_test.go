// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// TestWallClockSteppingBackOpensNoWindow checks that a window never opens twice.
func TestWallClockSteppingBackOpensNoWindow(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", budget(limiter.Day, time.UTC))
	spend := func(now limiter.Time) limiter.Decision {
		return n.check(now, &limiter.Request{Key: "k", Plan: p, InputTokens: 100})
	}
	morning := at(t, "UTC", "2026-07-05 00:00:01")
	wantOutcome(t, "today", spend(morning), limiter.Allowed)

	for _, back := range []time.Duration{2 * time.Second, 24 * time.Hour, 400 * 24 * time.Hour} {
		yesterday := limiter.Time{Mono: morning.Mono + 1, Wall: morning.Wall - int64(back)}
		d := spend(yesterday)
		wantOutcome(t, "after the clock stepped back by "+back.String(), d, limiter.Denied)
		if want := at(t, "UTC", "2026-07-06 00:00:00").Wall; d.Limits[0].ResetAt != want {
			t.Errorf("reset_at after a step of %s = %s, want the end of today", back, time.Unix(0, d.Limits[0].ResetAt).UTC())
		}
	}
	wantOutcome(t, "the clock is right again", spend(morning.Add(time.Second)), limiter.Denied)
	wantOutcome(t, "tomorrow", spend(morning.Add(24*time.Hour)), limiter.Allowed)
}

// TestMonoGoingBackIsHarmless checks that an older time counts as the latest one seen.
func TestMonoGoingBackIsHarmless(t *testing.T) {
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.SlidingWindow} {
		n := newNode(t, limiter.Options{})
		p := n.plan("k", limiter.Limit{Name: "x", Dimension: limiter.Tokens, Algorithm: a, Amount: 100, Window: time.Minute})
		request := &limiter.Request{Key: "k", Plan: p, InputTokens: 100}
		start := limiter.Time{Mono: int64(time.Hour), Wall: noon.Wall}
		wantOutcome(t, "all of it", n.check(start, request), limiter.Allowed)
		for _, mono := range []int64{int64(time.Hour) - 1, int64(time.Minute), 0} {
			d := n.check(limiter.Time{Mono: mono, Wall: noon.Wall}, request)
			wantOutcome(t, "an older reading", d, limiter.Denied)
			wantUsed(t, "an older reading", d, 0, 100)
		}
		d := n.check(start.Add(30*time.Second), request)
		wantOutcome(t, "half a minute later", d, limiter.Denied)
		wantOutcome(t, "at retry_after", n.check(start.Add(30*time.Second+d.RetryAfter), request), limiter.Allowed)
	}
}

// TestOldTimesEndNoLease checks that a lease starts at the latest time seen.
func TestOldTimesEndNoLease(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 1})
	start := limiter.Time{Mono: int64(time.Hour), Wall: noon.Wall}
	n.reserve(start, &limiter.Request{Key: "k", ID: "a", Plan: p, TTL: 10 * time.Second})
	n.settle(limiter.Time{Mono: 0, Wall: noon.Wall}, limiter.Usage{Key: "k", ID: "a", InputTokens: -1, OutputTokens: 1})
	full := &limiter.Request{Key: "k", ID: "b", Plan: p}
	wantOutcome(t, "within the lease", n.reserve(start.Add(10*time.Second-1), full), limiter.Denied)
	wantOutcome(t, "at its end", n.reserve(start.Add(10*time.Second), full), limiter.Allowed)
}
