// SPDX-License-Identifier: Apache-2.0

package line_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
)

// drawLimits returns the limits of a level.
func drawLimits(t *rapid.T, level string, most int) (limits []limiter.Limit) {
	for i := range rapid.IntRange(1, most).Draw(t, "limits of "+level) {
		l := limiter.Limit{Name: fmt.Sprint(level, i), Dimension: limiter.Tokens, Algorithm: limiter.Algorithm(rapid.IntRange(1, 4).Draw(t, "algorithm"))}
		l.Amount = rapid.SampledFrom([]int64{50, 100, 333}).Draw(t, "amount")
		l.Window = rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second}).Draw(t, "window")
		switch {
		case l.Algorithm == limiter.Concurrency:
			l.Dimension, l.Window, l.Amount = limiter.Concurrent, 0, rapid.Int64Range(1, 3).Draw(t, "slots")
		case rapid.IntRange(0, 3).Draw(t, "of requests") == 0:
			l.Dimension, l.Amount = limiter.Requests, rapid.Int64Range(1, 8).Draw(t, "requests")
		}
		if rapid.IntRange(0, 2).Draw(t, "has headroom") == 0 {
			l.Headroom = limiter.Headroom{Standard: rapid.SampledFrom([]int64{0, 100_000}).Draw(t, "headroom"), Batch: 400_000}
		}
		limits = append(limits, queued(l, time.Duration(rapid.Int64Range(1, 60).Draw(t, "max wait"))*time.Second, rapid.Int64Range(1, 30).Draw(t, "max depth")))
	}
	return limits
}

// TestLineWithEngine drives random calls, settles, cancels and leaves through a line and a real
// engine. After each event, nobody waits whose call fits unless one that does not fit needs the
// same limit; bounds are kept; and in the end nothing is left.
func TestLineWithEngine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, line.Bounds{Depth: 20, KeyDepth: 12, Age: time.Duration(rapid.Int64Range(1, 20).Draw(t, "age")) * time.Second})
		w.checked = true
		shared := drawLimits(t, "org", 2)
		keys := []string{"org/a", "org/b", "org/c"}
		for _, k := range keys {
			levels := []level{{3, shared}}
			if rapid.Bool().Draw(t, "has limits of its own") {
				levels = append(levels, level{5, drawLimits(t, "user", 2)})
			}
			w.plan(k, levels...)
		}
		next := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1, 2, 3, 4:
				next++
				c := tokens(rapid.SampledFrom(keys).Draw(t, "key"), rapid.Int64Range(0, 60).Draw(t, "cost"))
				c.ID, c.reserve, c.Requests = fmt.Sprint(next), rapid.Bool().Draw(t, "reserve"), 1
				c.TTL = time.Duration(rapid.Int64Range(1, 100).Draw(t, "ttl")) * time.Second
				c.class = rapid.SampledFrom(limiter.Priorities).Draw(t, "class")
				c.weight = rapid.SampledFrom([]int64{0, 1, 3, 1000}).Draw(t, "weight")
				c.maxWait = time.Duration(rapid.Int64Range(0, 20).Draw(t, "wait")) * time.Second
				w.submit(c)
			case 5, 6:
				w.until(w.now.Mono + rapid.Int64Range(0, 5e9).Draw(t, "passes"))
			case 7:
				w.finish(t)
			case 8:
				if ids := w.waiting(); len(ids) > 0 {
					id := rapid.SampledFrom(ids).Draw(t, "leaves")
					if !w.line.Leave(w.now.Mono, id) {
						t.Fatalf("a call that waits cannot leave")
					}
					delete(w.calls, id)
				}
			case 9:
				w.line.FreedAll(w.now.Mono)
			}
			w.turns()
			w.bounded(20, 12)
		}
		w.drain()
		for _, c := range w.served {
			if c.deadline != 0 && c.served > c.deadline {
				t.Fatalf("a call was served %s after its time was over", time.Duration(c.served-c.deadline))
			}
		}
	})
}

// finish settles a reservation that runs, and says what that freed.
func (w *world) finish(t *rapid.T) {
	for i, c := range w.served {
		if !c.reserve {
			continue
		}
		var d limiter.Decision
		u := limiter.Usage{Key: c.Key, ID: c.ID, InputTokens: rapid.Int64Range(-1, 80).Draw(t, "used"), OutputTokens: -1, Final: true}
		if err := w.engine.Settle(w.now, &u, &d); err == nil {
			w.line.Freed(w.now.Mono, d.Limits)
		}
		c.reserve = false
		w.served[i] = c
		return
	}
}

func (w *world) bounded(depth, keyDepth int) {
	n, ofKey, oldest := 0, map[string]int{}, int64(math.MaxInt64)
	w.line.Each(func(id line.ID, class limiter.Priority, arrived int64) {
		oldest = min(oldest, arrived)
		c := w.calls[id]
		if c == nil || c.class != class {
			w.t.Fatalf("the line has a call %d of class %s that is not known", id, class)
		}
		n++
		ofKey[c.Key]++
	})
	if n != len(w.calls) || n != w.line.Len() || n > depth {
		w.t.Fatalf("%d are in the line, which says %d, want the %d that wait, at most %d", n, w.line.Len(), len(w.calls), depth)
	}
	for k, n := range ofKey {
		if n > keyDepth {
			w.t.Fatalf("%d calls of %s wait, want at most %d", n, k, keyDepth)
		}
	}
	if waiting := w.line.Waiting(limiter.Interactive) + w.line.Waiting(limiter.Standard) + w.line.Waiting(limiter.Batch); waiting != n {
		w.t.Fatalf("%d wait by class, want %d", waiting, n)
	}
	var atLimits [3]int
	since := int64(math.MaxInt64)
	w.line.EachLimit(func(at *line.AtLimit) {
		if at.Calls == [3]int{} || at.Since > w.now.Mono {
			w.t.Fatalf("at now %d there is %+v, want calls that wait", w.now.Mono, at)
		}
		for c, n := range at.Calls {
			atLimits[c] += n
		}
		since = min(since, at.Since)
	})
	for i, c := range limiter.Priorities {
		if atLimits[i] != w.line.Waiting(c) || since != oldest {
			w.t.Fatalf("%d %s calls wait at limits since %d, want %d since %d", atLimits[i], c, since, w.line.Waiting(c), oldest)
		}
	}
}

// model is a naive line at one token bucket: deficit round robin, round by round.
type modelCall struct {
	key     string
	class   limiter.Priority
	cost    int64
	number  int
	arrived int64
}

// modelOrder returns in which order calls are let through that all wait from the beginning, by
// classes and then by deficit round robin with a quantum of the weight: each round, each key
// saves its weight, and a key whose first call costs no more than it has saved lets it through.
// Of a round, calls go by arrival. Costs are multiples of all weights, so that nothing is
// rounded.
func modelOrder(calls []modelCall, weights map[string]int64) (order []int) {
	for _, class := range limiter.Priorities {
		flows := map[string][]modelCall{}
		left := 0
		for _, c := range calls {
			if c.class == class {
				flows[c.key] = append(flows[c.key], c)
				left++
			}
		}
		saved := map[string]int64{}
		for left > 0 {
			for k, f := range flows {
				if len(f) > 0 {
					saved[k] += weights[k]
				}
			}
			for {
				best := ""
				for k, f := range flows {
					if len(f) > 0 && f[0].cost <= saved[k] && (best == "" || f[0].number < flows[best][0].number) {
						best = k
					}
				}
				if best == "" {
					break
				}
				c := flows[best][0]
				order = append(order, c.number)
				saved[best] -= c.cost
				flows[best] = flows[best][1:]
				left--
			}
		}
	}
	return order
}

// TestOrderIsTheModel: calls that wait together are let through in the order of the model, each
// exactly when what is ahead of it and itself has been refilled: as estimated, if none arrives
// later.
func TestOrderIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const rate = 600 // a second
		users := []string{"org/a", "org/b", "org/c", "org/d"}
		w := org(t, bucket("tokens", rate, time.Second), line.Bounds{Age: time.Hour}, users...)
		weights := map[string]int64{}
		for _, u := range users {
			weights[u] = rapid.SampledFrom([]int64{1, 2, 4}).Draw(t, "weight")
		}
		w.submit(tokens("org/a", rate))
		var list []modelCall
		byID := map[int]*call{}
		for i := range rapid.IntRange(1, 40).Draw(t, "calls") {
			c := tokens(rapid.SampledFrom(users).Draw(t, "key"), 4*rapid.Int64Range(1, 100).Draw(t, "cost"))
			c.class = rapid.SampledFrom(limiter.Priorities).Draw(t, "class")
			c.weight = weights[c.Key]
			w.mustWait(c)
			c.ID = fmt.Sprint(i)
			list, byID[i] = append(list, modelCall{c.Key, c.class, c.InputTokens, i, c.arrived}), c
		}
		w.drain()
		var sum int64
		for i, number := range modelOrder(list, weights) {
			got := w.served[i+1]
			if got != byID[number] {
				t.Fatalf("number %d is call %s, want %d", i, got.ID, number)
			}
			sum += got.InputTokens
			if want := start.Mono + (sum*1e9+rate-1)/rate; got.served != want {
				t.Fatalf("call %s is served after %d, want %d", got.ID, got.served-start.Mono, want-start.Mono)
			}
		}
		// The last of the model waits as estimated when it arrived unless others arrived later.
		if last := byID[len(list)-1]; last.served-last.arrived < int64(last.estimate) || last.served-last.arrived > int64(last.estimate)+int64(len(list)) {
			t.Fatalf("the latest to arrive waited %d, estimated %d", last.served-last.arrived, last.estimate)
		}
	})
}

// TestEstimatesAreHonest: with one key at one token bucket or fixed window, no call is refused
// that would have been served in time, and those that wait are served as estimated: with calls
// of one class, to the nanosecond per call ahead; in a fixed window, within a window for each
// that does not fill it.
func TestEstimatesAreHonest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := bucket("tokens", 100, time.Second)
		limit.Algorithm = rapid.SampledFrom([]limiter.Algorithm{limiter.TokenBucket, limiter.FixedWindow, limiter.SlidingWindow}).Draw(t, "algorithm")
		w := org(t, limit, line.Bounds{}, "org/a")
		bounded := org(t, limit, line.Bounds{}, "org/a")
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			cost := rapid.Int64Range(1, 100).Draw(t, "cost")
			pass := rapid.Int64Range(0, 5e8).Draw(t, "passes")
			w.until(w.now.Mono + pass)
			bounded.until(bounded.now.Mono + pass)
			// w has what really would have happened, without a bound on the wait.
			c := tokens("org/a", cost)
			c.maxWait = time.Duration(rapid.Int64Range(1, 3e9).Draw(t, "max wait"))
			b := *c
			if bounded.submit(&b) == line.TooLate {
				// Does it fit in time if it waits for as long as it wants?
				trial := *bounded
				c.maxWait = 0
				if at := trial.simulate(limit, c); at <= bounded.now.Mono+int64(b.maxWait) {
					t.Fatalf("a call of %d was refused with %s, and would have been served after %s of %s", cost, b.estimate, time.Duration(at-bounded.now.Mono), b.maxWait)
				}
			}
			c.maxWait = 0
			w.submit(c)
		}
		w.drain()
		for i, c := range w.served {
			waited := time.Duration(c.served - c.arrived)
			if waited < c.estimate {
				t.Fatalf("call %d waited %s, estimated %s", i, waited, c.estimate)
			}
			if limit.Algorithm == limiter.TokenBucket && waited > c.estimate+time.Duration(i+1)+10*time.Millisecond { // a unit, since what remains is rounded down
				t.Fatalf("call %d waited %s, estimated %s", i, waited, c.estimate)
			}
		}
	})
}

// simulate returns when a call would be served that waits in a copy of the world, after those
// that wait.
func (w *world) simulate(limit limiter.Limit, c *call) int64 {
	copied := org(w.t, limit, line.Bounds{}, "org/a")
	copied.now = w.now
	data := w.engine.Snapshot(w.now, limiter.PartitionOf("org"), nil)
	if err := copied.engine.Restore(w.now, limiter.PartitionOf("org"), data, time.LoadLocation); err != nil {
		w.t.Fatalf("Restore = %v", err)
	}
	var ahead []*call
	w.line.Each(func(id line.ID, _ limiter.Priority, _ int64) { ahead = append(ahead, w.calls[id]) })
	for len(ahead) > 0 { // by arrival, which is the order within a key
		first := 0
		for i := range ahead {
			if ahead[i].arrived < ahead[first].arrived || ahead[i].arrived == ahead[first].arrived && ahead[i].estimate < ahead[first].estimate {
				first = i
			}
		}
		x := *ahead[first]
		x.maxWait = 0
		copied.submit(&x)
		ahead = append(ahead[:first], ahead[first+1:]...)
	}
	x := *c
	copied.submit(&x)
	copied.drain()
	if x.served == 0 {
		return math.MaxInt64
	}
	return x.served
}
