// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// throttled returns a request for a throttle.
func throttled(capacity, count int64, period time.Duration, hits int64) limiter.CountRequest {
	return limiter.CountRequest{Key: "k", Hits: hits, Throttle: limiter.Throttle{Capacity: capacity, Count: count, Period: period}}
}

// TestThrottleExamples has the sequences that users of GCRA know: five at once, one a second.
func TestThrottleExamples(t *testing.T) {
	n := newNode(t, limiter.Options{})
	const never = -1 * time.Nanosecond
	for i, tt := range []struct {
		at, hits, remaining int64
		reset, retry        time.Duration
		limited             bool
	}{
		{0, 6, 5, 0, never, true}, // more than there ever is
		{0, 1, 4, time.Second, 0, false},
		{0, 1, 3, 2 * time.Second, 0, false},
		{0, 1, 2, 3 * time.Second, 0, false},
		{0, 1, 1, 4 * time.Second, 0, false},
		{0, 1, 0, 5 * time.Second, 0, false},
		{0, 1, 0, 5 * time.Second, time.Second, true},
		{3000, 1, 2, 3 * time.Second, 0, false},
		{3100, 1, 1, 3900 * time.Millisecond, 0, false},
		{4000, 1, 1, 4 * time.Second, 0, false},
		{8000, 1, 4, time.Second, 0, false},
		{9500, 1, 4, time.Second, 0, false},
		{9500, 0, 4, time.Second, 0, false}, // a look
		{9500, 2, 2, 3 * time.Second, 0, false},
		{9500, 5, 2, 3 * time.Second, 3 * time.Second, true},
	} {
		d := n.count(noon.Add(time.Duration(tt.at)*time.Millisecond), throttled(5, 1, time.Second, tt.hits))
		if d.Remaining != tt.remaining || d.Reset != int64(tt.reset) || d.RetryAfter != int64(tt.retry) || d.Over != tt.limited {
			t.Errorf("step %d: %+v, want remaining %d, reset %v, retry %v, limited %v", i, d, tt.remaining, tt.reset, tt.retry, tt.limited)
		}
	}
	if keys := n.Stats().Keys; keys != 1 {
		t.Errorf("%d records, want 1", keys)
	}
}

// gcra is a naive model of a throttle, in fractions: the time when the bucket is full.
type gcra struct{ full *big.Rat }

// call returns what the model answers at a time, in nanoseconds.
func (g *gcra) call(now int64, t limiter.Throttle, hits int64, force bool) (limited bool, remaining, reset, retry int64) {
	at := new(big.Rat).SetInt64(now)
	if g.full == nil || g.full.Cmp(at) < 0 {
		g.full = at
	}
	token := big.NewRat(int64(t.Period), t.Count)
	next := new(big.Rat).Add(g.full, new(big.Rat).Mul(token, new(big.Rat).SetInt64(hits)))
	size := new(big.Rat).Mul(token, new(big.Rat).SetInt64(t.Capacity))
	over := new(big.Rat).Sub(next, size)
	over.Sub(over, at)
	switch {
	case force:
		most := new(big.Rat).Add(at, new(big.Rat).Add(size, size))
		if next.Cmp(most) > 0 {
			next = most
		}
		if next.Cmp(g.full) > 0 {
			g.full = next
		}
	case over.Sign() <= 0:
		g.full = next
	default:
		limited, retry = true, -1
		if hits <= t.Capacity {
			retry = roundUp(over)
		}
	}
	left := new(big.Rat).Sub(g.full, at)
	reset = roundUp(left)
	if free := new(big.Rat).Sub(size, left); free.Sign() > 0 {
		free.Quo(free, token)
		remaining = new(big.Int).Quo(free.Num(), free.Denom()).Int64()
	}
	return limited, remaining, reset, retry
}

func roundUp(r *big.Rat) int64 {
	q, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q.Int64()
}

// anyThrottle draws a valid throttle, often one whose tokens are no whole nanoseconds.
func anyThrottle(t *rapid.T) limiter.Throttle {
	for {
		b := limiter.Throttle{
			Capacity: rapid.OneOf(rapid.Int64Range(0, 20), rapid.Int64Range(0, limiter.MaxAmount)).Draw(t, "capacity"),
			Count:    rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, limiter.MaxAmount)).Draw(t, "count"),
			Period:   time.Duration(rapid.OneOf(rapid.Int64Range(1, 10), rapid.Int64Range(1, int64(time.Hour)), rapid.Just(int64(time.Second))).Draw(t, "period")),
		}
		if b.Validate() == nil {
			return b
		}
	}
}

// TestThrottleIsTheModel compares a throttle with the model, exactly: as long as its count stays
// the same, whatever else changes, with restarts. When the count changes, the bucket may be full
// later by less than a nanosecond.
func TestThrottleIsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n, now, g := newNode(t, limiter.Options{}), noon, &gcra{}
		b := anyThrottle(rt)
		for i := range rapid.IntRange(1, 50).Draw(rt, "steps") {
			pass := time.Duration(rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, int64(b.Period)), rapid.Int64Range(0, int64(time.Hour))).Draw(rt, "passes"))
			now = now.Add(pass)
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				data := n.Snapshot(now, limiter.PartitionOf("k"), nil)
				n = newNode(t, limiter.Options{})
				if err := n.Restore(now, limiter.PartitionOf("k"), data, time.LoadLocation); err != nil {
					rt.Fatalf("Restore() = %v", err)
				}
			}
			if rapid.IntRange(0, 4).Draw(rt, "another capacity") == 0 {
				if next := (limiter.Throttle{Capacity: rapid.Int64Range(0, 40).Draw(rt, "capacity"), Count: b.Count, Period: b.Period}); next.Validate() == nil {
					b = next
				}
			}
			hits := rapid.OneOf(rapid.Int64Range(0, 5), rapid.Int64Range(0, b.Capacity+1), rapid.Int64Range(0, limiter.MaxAmount)).Draw(rt, "hits")
			q := throttled(b.Capacity, b.Count, b.Period, hits)
			q.Force = rapid.IntRange(0, 9).Draw(rt, "force") == 0
			limited, remaining, reset, retry := g.call(now.Wall, b, hits, q.Force)
			d := n.count(now, q)
			if d.Over != limited || d.Remaining != remaining || d.Reset != reset || d.RetryAfter != retry || d.Full {
				rt.Fatalf("step %d: %+v answers %+v, want limited %v, remaining %d, reset %d, retry %d", i, q, d, limited, remaining, reset, retry)
			}
		}
	})
}

// TestThrottleOfAnotherCount: a call with another count finds the bucket full at the same time,
// as redis-cell does, less at most one token, which is rounded against the caller.
func TestThrottleOfAnotherCount(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n, g := newNode(t, limiter.Options{}), &gcra{}
		b := anyThrottle(rt)
		hits := rapid.Int64Range(0, b.Capacity).Draw(rt, "hits")
		n.count(noon, throttled(b.Capacity, b.Count, b.Period, hits))
		g.call(noon.Wall, b, hits, false)
		now := noon.Add(time.Duration(rapid.Int64Range(0, int64(b.Period)).Draw(rt, "passes")))
		other := anyThrottle(rt)
		_, remaining, reset, _ := g.call(now.Wall, other, 0, false)
		d := n.count(now, throttled(other.Capacity, other.Count, other.Period, 0))
		if d.Reset != reset || d.Remaining > remaining || d.Remaining < remaining-1 {
			rt.Fatalf("%d of %+v, and then %+v: %+v, want remaining %d, reset %d", hits, b, other, d, remaining, reset)
		}
	})
}

// TestThrottleIDs: a repeated id takes nothing more, one that was limited is free, and another
// request with it is refused.
func TestThrottleIDs(t *testing.T) {
	n := newNode(t, limiter.Options{})
	q := throttled(5, 1, time.Second, 3)
	q.ID = "1"
	first := n.count(noon, q)
	again := n.count(noon.Add(time.Second), q)
	if first.Remaining != 2 || again.Remaining != 3 || !again.Replayed || again.Over {
		t.Errorf("first %+v, again %+v", first, again)
	}
	other := q
	other.Throttle.Capacity = 6
	if err := n.Count(noon, &other, new(limiter.CountResult)); !errors.Is(err, limiter.ErrConflict) {
		t.Errorf("another request with the id = %v, want a conflict", err)
	}
	q.ID = "2"
	if d := n.count(noon, q); !d.Over {
		t.Errorf("3 of 2 = %+v", d)
	}
	if d := n.count(noon.Add(time.Second), q); d.Over || d.Replayed {
		t.Errorf("the same id after it was limited = %+v", d)
	}
}

// TestThrottleIsApart: a throttle shares nothing with a key of a policy or a counter of its name.
func TestThrottleIsApart(t *testing.T) {
	n := newNode(t, limiter.Options{})
	n.count(noon, throttled(5, 1, time.Second, 5))
	wantCounted(t, "a counter", n.count(noon, hit(1)), 1, false)
	limit := limiter.Limit{Name: "rpm", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 5, Window: time.Minute}
	d := n.check(noon, &limiter.Request{Key: "k", Requests: 1, Plan: n.plan("k", limit)})
	wantUsed(t, "a check", d, 0, 1)
	if d := n.count(noon, throttled(5, 1, time.Second, 0)); d.Remaining != 0 {
		t.Errorf("the throttle = %+v", d)
	}
}

// TestThrottleIsKept: a flood of other keys does not evict a throttle that is in use, whose
// caller would get all of its bucket again.
func TestThrottleIsKept(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeys: 64})
	q := throttled(1000, 1, time.Second, 1)
	n.count(noon, q)
	for i := range 1000 {
		other := hit(1)
		other.Key = "k/" + string(rune('a'+i%26)) + time.Duration(i).String()
		n.count(noon, other)
	}
	q.Hits = 0
	if d := n.count(noon, q); d.Remaining != 999 {
		t.Errorf("after a flood = %+v, want 999 left", d)
	}
}

func TestThrottleValidation(t *testing.T) {
	for _, tt := range []struct {
		t  limiter.Throttle
		ok bool
	}{
		{limiter.Throttle{Capacity: 1, Count: 1, Period: 1}, true},
		{limiter.Throttle{Capacity: limiter.MaxAmount, Count: limiter.MaxAmount, Period: time.Hour}, true},
		{limiter.Throttle{Capacity: 100, Count: 1, Period: 366 * 24 * time.Hour}, true},
		{limiter.Throttle{Capacity: 101, Count: 1, Period: 366 * 24 * time.Hour}, false},
		{limiter.Throttle{Capacity: limiter.MaxAmount, Count: 1, Period: 1<<63 - 1}, false},
		{limiter.Throttle{Capacity: -1, Count: 1, Period: 1}, false},
		{limiter.Throttle{Capacity: 1, Count: -1, Period: 1}, false},
		{limiter.Throttle{Capacity: 1, Count: 1, Period: 0}, false},
		{limiter.Throttle{Capacity: limiter.MaxAmount + 1, Count: 1, Period: 1}, false},
	} {
		if err := tt.t.Validate(); (err == nil) != tt.ok {
			t.Errorf("Validate(%+v) = %v, want it to be valid: %v", tt.t, err, tt.ok)
		}
	}
}
