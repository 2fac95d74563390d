// SPDX-License-Identifier: Apache-2.0

package fallback_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/fallback"
)

func bucket(amount, burst int64, mode limiter.Unreachable) limiter.Limit {
	return limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: amount, Window: time.Minute, Burst: burst, Unreachable: mode}
}

func slots(amount int64, mode limiter.Unreachable) limiter.Limit {
	return limiter.Limit{Name: "concurrent", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: amount, Unreachable: mode}
}

func TestLimit(t *testing.T) {
	with := func(l limiter.Limit, change func(*limiter.Limit)) limiter.Limit {
		change(&l)
		return l
	}
	closed := func(l *limiter.Limit) { l.Closed = true }
	shadow := func(l *limiter.Limit) { l.Shadow = true }
	for _, c := range []struct {
		name   string
		limit  limiter.Limit
		roster int
		want   limiter.Limit
	}{
		{"a share", bucket(100, 0, limiter.Share), 3, with(bucket(33, 0, limiter.Share), func(l *limiter.Limit) { l.FullCapacity = 100 })},
		{"a share with burst", bucket(100, 31, limiter.Share), 3, with(bucket(33, 10, limiter.Share), func(l *limiter.Limit) { l.FullCapacity = 31 })},
		{"alone", bucket(100, 31, limiter.Share), 1, bucket(100, 31, limiter.Share)},
		{"no roster", bucket(100, 31, limiter.Share), 0, bucket(100, 31, limiter.Share)},
		{"a negative roster", bucket(100, 0, limiter.Share), -7, bucket(100, 0, limiter.Share)},
		{"a share of slots", slots(7, limiter.Share), 3, with(slots(2, limiter.Share), func(l *limiter.Limit) { l.FullCapacity = 7 })},
		{"the last unit", bucket(3, 0, limiter.Share), 3, with(bucket(1, 0, limiter.Share), func(l *limiter.Limit) { l.FullCapacity = 3 })},
		{"less than a unit", bucket(2, 0, limiter.Share), 3, with(bucket(2, 0, limiter.Share), closed)},
		{"less than a unit of rate", bucket(2, 900, limiter.Share), 3, with(bucket(2, 900, limiter.Share), closed)},
		{"less than a unit of burst", bucket(900, 2, limiter.Share), 3, with(bucket(900, 2, limiter.Share), closed)},
		{"less than a slot", slots(2, limiter.Share), 3, with(slots(2, limiter.Share), closed)},
		{"closed", bucket(100, 0, limiter.Closed), 3, with(bucket(100, 0, limiter.Closed), closed)},
		{"closed, alone", bucket(100, 0, limiter.Closed), 1, with(bucket(100, 0, limiter.Closed), closed)},
		{"closed slots", slots(5, limiter.Closed), 3, with(slots(5, limiter.Closed), closed)},
		{"an unknown mode", bucket(100, 0, 9), 3, with(bucket(100, 0, 9), closed)},
		{"open", bucket(100, 0, limiter.Open), 3, with(bucket(100, 0, limiter.Open), shadow)},
		{"open slots", slots(5, limiter.Open), 3, with(slots(5, limiter.Open), shadow)},
		{"a share in shadow", with(bucket(2, 0, limiter.Share), shadow), 3, with(bucket(2, 0, limiter.Share), shadow)},
		{"closed in shadow", with(bucket(2, 0, limiter.Closed), shadow), 3, with(bucket(2, 0, limiter.Closed), shadow)},
		{"a share of nothing", bucket(0, 0, limiter.Share), 3, bucket(0, 0, limiter.Share)},
		{"nothing, closed", bucket(0, 0, limiter.Closed), 3, bucket(0, 0, limiter.Closed)},
		{"nothing, open", bucket(0, 0, limiter.Open), 3, bucket(0, 0, limiter.Open)},
	} {
		if diff := cmp.Diff(c.want, fallback.Limit(c.limit, c.roster)); diff != "" {
			t.Errorf("Limit(%s, %d) differs (-want +got):\n%s", c.name, c.roster, diff)
		}
	}
}

// drawLimit returns any valid limit on tokens or slots.
func drawLimit(t *rapid.T) limiter.Limit {
	l := limiter.Limit{Name: "limit", Dimension: limiter.Tokens, Algorithm: limiter.Algorithm(rapid.IntRange(1, 4).Draw(t, "algorithm"))}
	amount := rapid.OneOf(rapid.Int64Range(0, 300), rapid.Int64Range(0, limiter.MaxAmount))
	l.Amount = amount.Draw(t, "amount")
	switch l.Algorithm {
	case limiter.Concurrency:
		l.Dimension = limiter.Concurrent
		l.Amount = rapid.Int64Range(0, 300).Draw(t, "slots")
		return l
	case limiter.FixedWindow:
		if rapid.Bool().Draw(t, "calendar") {
			l.Calendar = limiter.Day
			return l
		}
	case limiter.TokenBucket:
		if l.Amount > 0 {
			l.Burst = amount.Draw(t, "burst")
		}
	}
	l.Window = time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(time.Hour)).Draw(t, "window"))
	return l
}

func capacity(l limiter.Limit) int64 {
	if l.Burst != 0 {
		return l.Burst
	}
	return l.Amount
}

// TestSharesTogetherNeverExceedTheLimit takes as much as possible from every member of a
// roster at one instant.
func TestSharesTogetherNeverExceedTheLimit(t *testing.T) {
	engine := limiter.New(limiter.Options{})
	now := limiter.Time{Mono: 1, Wall: 1_772_000_000e9}
	next := 0
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t)
		roster := rapid.IntRange(1, 100).Draw(t, "roster")
		part := fallback.Limit(l, roster)
		set, err := engine.Catalog().LimitSet([]limiter.Limit{part})
		if err != nil {
			t.Fatalf("Limit(%+v, %d) is not valid: %v", l, roster, err)
		}
		var sum int64
		for range roster {
			next++
			sum += drain(t, engine, now, fmt.Sprint("member-", next), set, l)
		}
		if whole := capacity(l); sum > whole || roster == 1 && sum != whole {
			t.Fatalf("%d members with %+v of %+v admit %d together, want at most %d", roster, part, l, sum, whole)
		}
		if per := sum / int64(roster); !part.Closed && per != capacity(l)/int64(roster) {
			t.Fatalf("a member of %d admits %d of %+v, want the share rounded down", roster, per, l)
		}
	})
}

// drain requests less and less until nothing is admitted, and returns the total.
func drain(t *rapid.T, engine *limiter.Engine, now limiter.Time, key string, set *limiter.LimitSet, whole limiter.Limit) (given int64) {
	p := &limiter.Plan{Count: 1, Rates: limiter.Rates{Weights: limiter.DefaultWeights}}
	p.Levels[0] = limiter.Level{End: len(key), Limits: set}
	r := &limiter.Request{Key: key, Plan: p}
	var d limiter.Decision
	admitted := func(cost int64) bool {
		var err error
		if r.ID = fmt.Sprint(given); whole.Algorithm == limiter.Concurrency {
			err = engine.Reserve(now, r, &d)
			cost = 1
		} else {
			r.ID, r.InputTokens = "", cost
			err = engine.Check(now, r, &d)
		}
		if err != nil {
			t.Fatalf("call = %v, want a decision", err)
		}
		if d.Outcome != limiter.Allowed {
			honest(t, d, cost, whole, set.Limits()[0].Closed)
			return false
		}
		given += cost
		return true
	}
	for cost := capacity(whole); cost > 0; {
		if !admitted(cost) {
			cost /= 2
		}
		if whole.Algorithm == limiter.Concurrency && d.Outcome == limiter.Denied {
			break
		}
	}
	return given
}

// honest fails unless the reason of a denial says whether the owner could admit the
// request.
func honest(t *rapid.T, d limiter.Decision, cost int64, whole limiter.Limit, closed bool) {
	switch {
	case whole.Amount == 0:
		if d.Reason != limiter.ExceedsCapacity || d.RetryAfter >= 0 {
			t.Fatalf("a limit of 0: denied %s, retry %s, want exceeds_capacity and no retry", d.Reason, d.RetryAfter)
		}
	case closed || cost > d.Limits[0].Capacity:
		if d.Reason != limiter.OwnerUnreachable || d.RetryAfter != time.Second {
			t.Fatalf("%d of %+v: denied %s, retry %s, want owner_unreachable after 1 s", cost, whole, d.Reason, d.RetryAfter)
		}
	case d.Reason != limiter.LimitExceeded || d.RetryAfter <= 0:
		t.Fatalf("%d of %+v: denied %s, retry %s, want limit_exceeded and a time", cost, whole, d.Reason, d.RetryAfter)
	}
}

// TestSharesTogetherRefillNoFaster checks that all members together admit at most burst +
// rate x elapsed of a token bucket.
func TestSharesTogetherRefillNoFaster(t *testing.T) {
	const window = int64(time.Minute)
	engine := limiter.New(limiter.Options{})
	next := 0
	rapid.Check(t, func(t *rapid.T) {
		l := bucket(rapid.Int64Range(1, 5000).Draw(t, "amount"), rapid.Int64Range(0, 5000).Draw(t, "burst"), limiter.Share)
		roster := rapid.IntRange(1, 100).Draw(t, "roster")
		set, err := engine.Catalog().LimitSet([]limiter.Limit{fallback.Limit(l, roster)})
		if err != nil {
			t.Fatal(err)
		}
		next++
		start := limiter.Time{Mono: 1, Wall: 1_772_000_000e9}
		var sum, elapsed int64
		for range 5 {
			for m := range roster {
				sum += drain(t, engine, start.Add(time.Duration(elapsed)), fmt.Sprint("bucket-", next, "-", m), set, l)
			}
			if most := capacity(l) + l.Amount*elapsed/window; sum > most {
				t.Fatalf("%d members of %+v admit %d in %s, want at most %d", roster, l, sum, time.Duration(elapsed), most)
			}
			elapsed += rapid.Int64Range(0, window).Draw(t, "pause")
		}
	})
}

func TestNoShareOverflows(t *testing.T) {
	for _, roster := range []int{1, 2, math.MaxInt32, math.MaxInt} {
		l := fallback.Limit(bucket(limiter.MaxAmount, limiter.MaxAmount, limiter.Share), roster)
		if _, err := limiter.NewCatalog().LimitSet([]limiter.Limit{l}); err != nil {
			t.Errorf("a share of the largest limit among %d is not valid: %v", roster, err)
		}
	}
}
