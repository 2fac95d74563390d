// SPDX-License-Identifier: Apache-2.0

package line_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
)

// floodRate is the limit of the floods, in tokens per second.
const floodRate = 10_000

// largestOfFlood is what the largest call of a flood costs, in tokens.
const largestOfFlood = 350

// flood is a minute of calls at a token bucket with headroom for calls of other classes than
// batch.
type flood struct {
	burst       int64   // of the bucket
	headroom    float64 // what batch calls leave, as a part of the burst
	interactive float64 // what interactive calls ask for, as a part of the limit
	batch       float64
	seconds     int64
}

// found is what a flood has led to.
type found struct {
	waits              []time.Duration // of interactive calls, in the order of arrival
	interactive, batch int64           // tokens admitted
	unused             int64           // tokens of the limit that were not
}

// run sends the calls. The interactive ones are the same, whatever the other fields are.
func (f flood) run(t *testing.T) (r found) {
	t.Helper()
	w := newWorld(t, line.Bounds{Depth: 1 << 20})
	limit := queued(bucket("tokens", floodRate*60, time.Minute), 10*time.Minute, 1_000_000)
	limit.Burst = f.burst
	limit.Headroom.Batch = int64(f.headroom * 1_000_000)
	var calls []*call
	arrive := func(class limiter.Priority, load float64, users int, seed uint64) {
		if load == 0 {
			return
		}
		random := rand.New(rand.NewPCG(seed, 1))
		const least = 50
		rate := load * floodRate / ((least + largestOfFlood) / 2) // calls per second
		for at := random.ExpFloat64() / rate; at < float64(f.seconds); at += random.ExpFloat64() / rate {
			c := tokens(fmt.Sprintf("org/%s-%d", class, random.IntN(users)), least+random.Int64N(largestOfFlood-least+1))
			c.class, c.arrived = class, start.Mono+int64(at*1e9)
			calls = append(calls, c)
			w.plan(c.Key, level{3, []limiter.Limit{limit}})
		}
	}
	arrive(limiter.Interactive, f.interactive, 20, 1)
	arrive(limiter.Batch, f.batch, 5, 2)
	slices.SortStableFunc(calls, func(a, b *call) int { return cmp.Compare(a.arrived, b.arrived) })
	for _, c := range calls {
		w.until(c.arrived)
		w.submit(c)
	}
	end := start.Mono + f.seconds*1e9
	w.until(end)
	for _, c := range w.served {
		if c.class == limiter.Batch {
			r.batch += c.InputTokens
		} else {
			r.interactive += c.InputTokens
		}
	}
	for _, c := range calls {
		if c.class == limiter.Interactive {
			served := c.served
			if served == 0 {
				served = end // at least
			}
			r.waits = append(r.waits, time.Duration(served-c.arrived))
		}
	}
	r.unused = f.burst + floodRate*f.seconds - r.interactive - r.batch
	return r
}

func (r *found) percentile(p int) time.Duration {
	sorted := slices.Sorted(slices.Values(r.waits))
	return sorted[(len(sorted)-1)*p/100]
}

func (r *found) mean() (sum time.Duration) {
	for _, w := range r.waits {
		sum += w
	}
	return sum / time.Duration(len(r.waits))
}

// TestBatchFlood floods a limit with batch calls that ask for ten times of it, beside
// interactive ones. The headroom is 40 % of the bucket.
func TestBatchFlood(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes half a million calls")
	}
	const headroom = 0.4
	for _, c := range []struct {
		burst       int64
		interactive float64
		within      bool // p99 is within 1.2 times of what it is without the flood
	}{
		// The bursts of the interactive calls fit the headroom: they do not wait.
		{floodRate, 0.3, true},
		{floodRate, 0.6, true},
		// They do not: what is theirs alone is less than the whole bucket.
		{floodRate / 10, 0.2, false},
		{floodRate / 10, 0.6, false},
		{floodRate, 0.95, false},
		{4 * floodRate, 1, false},
		// They need all of the limit, and wait for each other.
		{floodRate / 10, 0.95, true},
		{floodRate / 10, 1, true},
		{floodRate, 1.1, true},
	} {
		f := flood{burst: c.burst, headroom: headroom, interactive: c.interactive, seconds: 40}
		alone := f.run(t)
		f.batch = 10
		beside := f.run(t)
		small := f
		small.burst, small.headroom, small.batch = int64(headroom*float64(c.burst)), 0, 0
		own := small.run(t) // what is theirs alone
		name := fmt.Sprintf("bucket of %d, interactive calls for %.2f of the limit", c.burst, c.interactive)
		p99 := [3]time.Duration{alone.percentile(99), beside.percentile(99), own.percentile(99)}
		t.Logf("%s: p99 alone %v, beside the flood %v, alone with a bucket of the headroom %v; tokens of batch calls %d, unused %d", name, p99[0], p99[1], p99[2], beside.batch, beside.unused)
		if c.within && p99[1] > p99[0]*12/10 {
			t.Errorf("%s: p99 %v beside the flood, want at most 1.2 times of %v", name, p99[1], p99[0])
		}
		if p99[1] > p99[2]*12/10 {
			t.Errorf("%s: p99 %v beside the flood, want at most 1.2 times of %v, which they have with the headroom alone", name, p99[1], p99[2])
		}
		// The flood takes from them at most what is not headroom. They wait for its refill.
		refill := time.Duration((1 - headroom) * float64(c.burst) / floodRate * float64(time.Second))
		if mean, most := beside.mean(), alone.mean()+refill*11/10; mean > most {
			t.Errorf("%s: they wait for %v on average beside the flood, want at most %v", name, mean, most)
		}
		// Work is conserved: only the headroom is unused, and what the next call does not fit.
		if most := int64(headroom*float64(c.burst)) + largestOfFlood; beside.unused < 0 || beside.unused > most {
			t.Errorf("%s: %d tokens of the limit unused, want at most %d", name, beside.unused, most)
		}
		// They get as many tokens as with the headroom alone. An age brings one batch call through.
		if least := own.interactive - largestOfFlood*f.seconds/10; beside.interactive < least {
			t.Errorf("%s: %d tokens of interactive calls, want at least %d", name, beside.interactive, least)
		}
	}
}
