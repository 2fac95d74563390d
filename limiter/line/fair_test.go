// SPDX-License-Identifier: Apache-2.0

package line_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
)

// jain returns Jain's index of fairness, by which 1 is fair.
func jain(shares []float64) float64 {
	var sum, squares float64
	for _, x := range shares {
		sum += x
		squares += x * x
	}
	return sum * sum / (float64(len(shares)) * squares)
}

// TestSharesFollowWeights: while all keys have calls waiting, what they get is in proportion to
// their weights, by cost and not by count, however large their calls are and whoever leaves.
func TestSharesFollowWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const rate = 2000 // a second
		w := newWorld(t, line.Bounds{Depth: 1 << 20})
		limit := queued(bucket("tokens", rate, time.Second), 10*time.Minute, 1_000_000)
		users := rapid.IntRange(2, 8).Draw(t, "users")
		weights, sizes := make([]int64, users), make([]int64, users)
		got := make([]float64, users)
		number := 0
		submit := func(i int) *call {
			c := tokens(fmt.Sprintf("org/%02d", i), 1+int64(number*7919)%sizes[i])
			number++
			c.weight = weights[i]
			w.submit(c)
			return c
		}
		for i := range users {
			w.plan(fmt.Sprintf("org/%02d", i), level{3, []limiter.Limit{limit}})
			weights[i] = rapid.SampledFrom([]int64{1, 1, 3, 5}).Draw(t, "weight")
			sizes[i] = rapid.SampledFrom([]int64{20, 50, 100}).Draw(t, "size")
		}
		w.plan("org/x", level{3, []limiter.Limit{limit}})
		w.submit(tokens("org/x", rate))
		backlog := make([]int64, users) // what the calls of each cost that wait
		for second := range int64(20) {
			for i := range users {
				for backlog[i] < 2*rate {
					backlog[i] += submit(i).InputTokens
				}
			}
			if rapid.IntRange(0, 3).Draw(t, "leave") == 0 {
				for _, id := range w.waiting()[:min(5, len(w.calls))] {
					c := w.calls[id]
					var i int
					_, _ = fmt.Sscanf(c.Key, "org/%d", &i)
					w.line.Leave(w.now.Mono, id)
					delete(w.calls, id)
					backlog[i] -= c.InputTokens
				}
			}
			w.until(start.Mono + (second+1)*1e9)
			var sum int64
			for _, c := range w.served {
				sum += c.InputTokens
				var i int
				if c.Key == "org/x" {
					continue
				}
				_, _ = fmt.Sscanf(c.Key, "org/%d", &i)
				got[i] += float64(c.InputTokens) / float64(weights[i])
				backlog[i] -= c.InputTokens
			}
			if most := int64(rate) * (second + 2); second == 0 && sum > most {
				t.Fatalf("admitted %d in a second, want at most %d", sum, most)
			}
			w.served = w.served[:0]
		}
		if index := jain(got); index < 0.95 {
			t.Errorf("Jain's index of what keys got by weight = %.3f, want at least 0.95: %.0f for weights %v, calls up to %v", index, got, weights, sizes)
		}
	})
}

// TestNoClassStarves: whatever more urgent calls come, a class of which somebody waits gets a
// call through at least in each age and the time that the call needs.
func TestNoClassStarves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const rate = 1000
		age := time.Duration(rapid.Int64Range(1, 5).Draw(t, "age")) * time.Second
		w := org(t, bucket("tokens", rate, time.Second), line.Bounds{Age: age}, "org/a", "org/b", "org/c")
		w.submit(tokens("org/a", rate))
		for range 20 {
			for i, class := range []limiter.Priority{limiter.Standard, limiter.Batch} {
				c := tokens([]string{"org/a", "org/b"}[i], rapid.Int64Range(1, rate/2).Draw(t, "cost"))
				c.class = class
				w.mustWait(c)
			}
		}
		last := map[limiter.Priority]int64{}
		for step := range int64(200) { // interactive calls take all there is
			for w.line.Waiting(limiter.Interactive) < 30 {
				c := tokens("org/c", rapid.Int64Range(1, 100).Draw(t, "urgent cost"))
				c.class = limiter.Interactive
				w.submit(c)
			}
			w.until(start.Mono + (step+1)*1e8)
		}
		for _, c := range w.served[1:] {
			if c.class == limiter.Interactive {
				continue
			}
			since := max(last[c.class], c.arrived)
			// The call of the other class that is due as well may go first.
			if waited, most := c.served-since, int64(age)+2*int64(time.Second)/2+int64(time.Second)/5; waited > most {
				t.Fatalf("%s had nothing for %s, want at most %s", c.class, time.Duration(waited), time.Duration(most))
			}
			last[c.class] = c.served
		}
		if last[limiter.Batch] == 0 || last[limiter.Standard] == 0 {
			t.Fatal("a class got nothing at all")
		}
	})
}

// fill returns a world in which n calls of as many keys wait: at the limit of the organisation
// or each at one of its own.
func fill(t fataler, n int, own bool) *world {
	w := newWorld(t, line.Bounds{Depth: 2*n + 2}) // a key may have two calls in it
	var first *limiter.Plan
	for i := range n + 1 {
		key := fmt.Sprintf("org/user-%06d", i)
		levels := []level{{3, []limiter.Limit{
			bucket("org-tokens", 1e9, time.Minute), {Name: "org-requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1e9, Window: time.Minute},
		}}, {len(key), []limiter.Limit{
			bucket("tokens", 1e9, time.Minute),
			{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1e9, Window: time.Minute},
			{Name: "output", Dimension: limiter.OutputTokens, Algorithm: limiter.TokenBucket, Amount: 1e9, Window: time.Minute},
		}}}
		if first == nil {
			first = w.plan(key, levels...)
		}
		w.plans[key] = first
	}
	full := tokens("org/user-000000", 1e9)
	if own {
		for i := range n {
			c := tokens(fmt.Sprintf("org/user-%06d", i+1), 1e9)
			c.Requests, c.OutputTokens, c.Force = 1, 0, true
			c.Plan = &limiter.Plan{Count: 1, Rates: first.Rates}
			c.Plan.Levels[0] = first.Levels[1]
			var d limiter.Decision
			w.ask(c, &d)
		}
	} else {
		w.submit(full)
	}
	return w
}

func (w *world) waitAll(n int) {
	w.t.Helper()
	for i := range n {
		c := tokens(fmt.Sprintf("org/user-%06d", i+1), 100)
		c.Requests, c.OutputTokens = 1, 10
		if refusal := w.submit(c); refusal != line.NotRefused || c.served != 0 {
			w.t.Fatalf("call %d: %s, served at %d, want it to wait", i, refusal, c.served)
		}
	}
}

// TestMemoryOfWaiters: 10,000 that wait need less than 10 MB, at one limit or each at its own.
func TestMemoryOfWaiters(t *testing.T) {
	const n = 10_000
	for name, own := range map[string]bool{"one limit": false, "own limits": true} {
		w := fill(t, n, own)
		calls := make([]line.Call, n)
		decisions := make([]limiter.Decision, n)
		for i := range n {
			c := tokens(fmt.Sprintf("org/user-%06d", i+1), 100)
			c.Requests, c.OutputTokens, c.Plan = 1, 10, w.plans["org/user-000000"]
			w.ask(c, &decisions[i])
			calls[i] = line.Call{Key: c.Key, Arrived: w.now.Mono}
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range calls {
			if _, refusal := w.line.Arrive(w.now.Mono, calls[i], &decisions[i]); refusal != line.NotRefused {
				t.Fatalf("%s: call %d: %s", name, i, refusal)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		each := float64(after.HeapAlloc-before.HeapAlloc) / n
		t.Logf("%s: %.0f bytes for each that waits", name, each)
		if each > 1000 {
			t.Errorf("%s: %.0f bytes for each that waits, want at most 1000", name, each)
		}
		runtime.KeepAlive(w)
		runtime.KeepAlive(decisions)
	}
}

// BenchmarkWait measures a call that waits, from its arrival to its admission, while as many
// others do.
func BenchmarkWait(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint("waiting=", n), func(b *testing.B) {
			w := fill(b, n, false)
			w.waitAll(n)
			var d limiter.Decision
			c := tokens("org/user-000001", 100)
			c.Requests, c.OutputTokens, c.Plan = 1, 10, w.plans["org/user-000001"]
			w.ask(c, &d)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c := line.Call{Key: c.Key, Arrived: w.now.Mono}
				place, refusal := w.line.Arrive(w.now.Mono, c, &d)
				if refusal != line.NotRefused {
					b.Fatal(refusal)
				}
				w.line.Next(w.now.Mono)
				w.line.Admitted(w.now.Mono, place.ID)
			}
		})
	}
}

// BenchmarkBlocks measures what a call costs more that need not wait while others do.
func BenchmarkBlocks(b *testing.B) {
	w := fill(b, 100, true)
	w.waitAll(100)
	c := tokens("org/user-000000", 100)
	c.Requests, c.Plan = 1, w.plans["org/user-000000"]
	var d limiter.Decision
	if err := w.engine.Preview(w.now, &c.Request, false, &d); err != nil || d.Outcome != limiter.Allowed {
		b.Fatal(err, d.Outcome)
	}
	b.ReportAllocs()
	for b.Loop() {
		if w.line.Blocks(w.now.Mono, limiter.Standard, "", &d) {
			b.Fatal("blocked")
		}
	}
}

// BenchmarkEachLimit measures for how long a look at the line of a root takes.
func BenchmarkEachLimit(b *testing.B) {
	w := fill(b, 10_000, false)
	w.waitAll(10_000)
	for b.Loop() {
		w.line.EachLimit(func(*line.AtLimit) {})
	}
}
