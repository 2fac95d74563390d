// SPDX-License-Identifier: Apache-2.0

package line_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
)

// slotFlood is calls at a number of slots, of which batch calls leave some free.
type slotFlood struct {
	slots, headroom    int64
	interactive, batch float64 // what they ask for, as a part of the slots
	seconds            int64
}

// How long calls hold a slot.
const (
	interactiveHolds = 500 * time.Millisecond
	batchHolds       = 2 * time.Second
)

// run sends the calls. It returns the waits of the interactive ones, sorted, and for how long
// batch calls held slots, as a part of all slots.
func (f slotFlood) run(t *testing.T) (waits []time.Duration, batch float64) {
	t.Helper()
	w := newWorld(t, line.Bounds{Depth: 1 << 20})
	limit := queued(limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: f.slots}, 10*time.Minute, 1_000_000)
	limit.Headroom.Batch = f.headroom * 1_000_000 / f.slots
	var calls []*call
	arrive := func(class limiter.Priority, load float64, holds time.Duration, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		rate := load * float64(f.slots) / holds.Seconds()
		for at := random.ExpFloat64() / rate; at < float64(f.seconds); at += random.ExpFloat64() / rate {
			key := fmt.Sprintf("org/%s-%d", class, random.IntN(5))
			c := &call{Request: limiter.Request{Key: key, ID: fmt.Sprint(class, len(calls)), Requests: 1, TTL: time.Hour}, reserve: true, class: class}
			c.arrived = start.Mono + int64(at*1e9)
			calls = append(calls, c)
			w.plan(key, level{3, []limiter.Limit{limit}})
		}
	}
	arrive(limiter.Interactive, f.interactive, interactiveHolds, 1)
	arrive(limiter.Batch, f.batch, batchHolds, 2)
	slices.SortStableFunc(calls, func(a, b *call) int { return cmp.Compare(a.arrived, b.arrived) })
	end := start.Mono + f.seconds*1e9
	var running []*call // those who hold slots, by when they end
	ends := func(c *call) int64 {
		if c.class == limiter.Batch {
			return c.served + int64(batchHolds)
		}
		return c.served + int64(interactiveHolds)
	}
	for known, next := 0, 0; ; {
		w.turns()
		for ; known < len(w.served); known++ {
			running = append(running, w.served[known])
		}
		slices.SortStableFunc(running, func(a, b *call) int { return cmp.Compare(ends(a), ends(b)) })
		if used := int64(len(running)); used > f.slots || used < f.slots && w.line.Waiting(limiter.Interactive) > 0 || used < f.slots-f.headroom && w.line.Waiting(limiter.Batch) > 0 {
			t.Fatalf("%d of %d slots are taken while %d interactive and %d batch calls wait", used, f.slots, w.line.Waiting(limiter.Interactive), w.line.Waiting(limiter.Batch))
		}
		ended, arrival := int64(math.MaxInt64), int64(math.MaxInt64)
		if len(running) > 0 {
			ended = ends(running[0])
		}
		if next < len(calls) {
			arrival = calls[next].arrived
		}
		if min(ended, arrival) >= end {
			break
		}
		w.at(min(ended, arrival))
		if arrival < ended {
			w.submit(calls[next])
			next++
			continue
		}
		var d limiter.Decision
		if err := w.engine.Settle(w.now, &limiter.Usage{Key: running[0].Key, ID: running[0].ID, Final: true}, &d); err != nil {
			t.Fatalf("Settle = %v", err)
		}
		w.line.Freed(w.now.Mono, d.Limits)
		running = running[1:]
	}
	var held time.Duration
	for _, c := range calls {
		served := c.served
		switch {
		case served == 0:
			served = end // at least
		case c.class == limiter.Batch:
			held += time.Duration(min(ends(c), end) - served)
		}
		if c.class == limiter.Interactive {
			waits = append(waits, time.Duration(served-c.arrived))
		}
	}
	slices.Sort(waits)
	return waits, held.Seconds() / float64(f.slots*f.seconds)
}

// TestBatchFloodOfSlots floods slots with batch calls that ask for ten times of them, beside
// interactive ones. Nobody waits for a slot that is free for the class.
func TestBatchFloodOfSlots(t *testing.T) {
	const slots, headroom = 50, 20
	for _, c := range []struct {
		interactive float64
		within      bool // p99 is within 1.2 times of what it is without the flood
	}{{0.1, true}, {0.2, true}, {0.4, false}, {0.9, false}, {1.1, true}} {
		f := slotFlood{slots: slots, headroom: headroom, interactive: c.interactive, seconds: 60}
		p99 := func(waits []time.Duration) time.Duration { return waits[(len(waits)-1)*99/100] }
		waits, _ := f.run(t)
		alone := p99(waits)
		f.batch = 10
		waits, batch := f.run(t)
		beside := p99(waits)
		t.Logf("interactive calls for %.1f of the slots: p99 alone %v, beside the flood %v; batch calls have %.2f", c.interactive, alone, beside, batch)
		if c.within && beside > alone*12/10 {
			t.Errorf("interactive calls for %.1f of the slots: p99 %v beside the flood, want at most 1.2 times of %v", c.interactive, beside, alone)
		}
		// A batch call that holds a slot cannot be stopped. One of them ends soon.
		if beside > alone+batchHolds/2 {
			t.Errorf("interactive calls for %.1f of the slots: p99 %v beside the flood, want at most %v more than %v", c.interactive, beside, batchHolds/2, alone)
		}
		// Batch calls leave the headroom free, also of what interactive calls hold.
		if left := float64(slots-headroom)/slots - c.interactive; batch < left {
			t.Errorf("interactive calls for %.1f of the slots: batch calls have %.2f of them, want the %.2f that are left", c.interactive, batch, left)
		}
	}
}
