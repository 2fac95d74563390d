// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

func mostUsed(points []audit.Point) (most int64) {
	for _, p := range points {
		most = max(most, p.Used)
	}
	return most
}

// wantSeries checks that a series exceeds its limit exactly where an over-admission
// was found, and by the same amount.
func wantSeries(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, r *audit.Report,
) {
	t.Helper()
	over := map[audit.LimitRef]audit.OverAdmission{}
	for _, o := range r.Over {
		over[o.LimitRef] = o
	}
	for _, c := range r.UsageSeries {
		if len(c.Used)+len(c.WithFallback) == 0 || c.Step <= 0 || len(c.Used) > 120 {
			t.Fatalf("%v has %d points of %v", c.LimitRef, len(c.Used), c.Step)
		}
		if !slices.IsSortedFunc(c.Used, func(a, b audit.Point) int { return int(a.At - b.At) }) {
			t.Fatalf("%v: points out of order: %v", c.LimitRef, c.Used)
		}
		want := over[c.LimitRef].Amount
		if beyond := max(0, mostUsed(c.Used)-c.Capacity()); beyond != want {
			t.Fatalf("%v: used %d of %d, and %d was found over", c.LimitRef, mostUsed(c.Used), c.Capacity(), want)
		}
	}
}

func TestUsageSeries(t *testing.T) {
	const second = time.Second
	at := func(seconds ...float64) (events []bench.Event) {
		for i, s := range seconds {
			sent := time.Duration(s * float64(second))
			events = append(events, event(bench.OpCheck, check("k", i, 1), sent, sent+ms, allowed))
		}
		return events
	}
	points := func(pairs ...float64) (list []audit.Point) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, audit.Point{At: time.Duration(pairs[i] * float64(second)), Used: int64(pairs[i+1])})
		}
		return list
	}
	for _, tt := range []struct {
		name   string
		limit  audit.Limit
		events []bench.Event
		want   []audit.Point
	}{
		{"none", audit.Limit{Amount: 5}, at(0, 0.01, 1, 2), points(0, 2, 1, 3, 2, 4)},
		{"too much", audit.Limit{Amount: 3}, at(0, 0.01, 1, 2), points(0, 2, 1, 3, 2, 4)},
		{"bucket", audit.Limit{Algorithm: audit.TokenBucket, Amount: 1, Burst: 2, Window: second}, at(0, 0.01, 3, 3.01), points(0, 2, 3, 2)},
		{"idle bucket", audit.Limit{Algorithm: audit.TokenBucket, Amount: 100, Window: second}, at(0, 5), points(0, 1, 5, 1)},
		{"sliding", audit.Limit{Algorithm: audit.SlidingWindow, Amount: 3, Window: second}, at(0, 0.5, 0.9, 1.2, 3), points(0, 1, 0.5, 2, 0.9, 3, 1.2, 3, 3, 1)},
		{"fixed", audit.Limit{Algorithm: audit.FixedWindow, Amount: 3, Window: second, Resets: []time.Duration{second, 2 * second}}, at(0.3, 0.9, 1.1, 2.2), points(0.3, 1, 0.9, 2, 1.1, 1, 2.2, 1)},
		{"fixed, somewhere", audit.Limit{Algorithm: audit.FixedWindow, Amount: 2, Window: second}, at(0.1, 0.9, 1.2, 1.3), points(0.1, 1, 0.9, 2, 1.2, 1, 1.3, 2)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.limit.Dimension = audit.Requests
			r := run(t, audit.Options{Limits: []audit.Limit{tt.limit}}, tt.events)
			if len(r.UsageSeries) != 1 {
				t.Fatalf("%d courses, want 1", len(r.UsageSeries))
			}
			c := r.UsageSeries[0]
			if diff := cmp.Diff(tt.want, c.Used); diff != "" || c.WithFallback != nil || c.Calls != int64(len(tt.events)) || c.Step != 50*ms {
				t.Errorf("%d calls, steps of %v, with fallback %v; used differs (-want +got):\n%s", c.Calls, c.Step, c.WithFallback, diff)
			}
			wantSeries(t, r)
		})
	}
}

func TestSeriesOfConcurrency(t *testing.T) {
	limit := audit.Limit{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 2}
	var events []bench.Event
	for i, begin := range []int{0, 100, 400} { // each for 250 ms
		c, both := llm("k", begin, 250)
		c.ID = fmt.Sprint(i)
		events = append(events, both...)
	}
	c := run(t, audit.Options{Limits: []audit.Limit{limit}}, events).UsageSeries[0]
	want := []audit.Point{{At: 0, Used: 1}, {At: 100 * ms, Used: 2}, {At: 400 * ms, Used: 1}}
	if diff := cmp.Diff(want, c.Used); diff != "" {
		t.Errorf("used differs (-want +got):\n%s", diff)
	}
}

// Usage with fallback is a separate series, with the same steps.
func TestSeriesWithFallback(t *testing.T) {
	limit := requests(50)
	events := renamed(byFallback(30, "a"))
	for i := range 40 {
		events = append(events, event(bench.OpCheck, check("k", i, 1), at(1000*i), at(1000*i)+ms, allowed))
	}
	c := run(t, audit.Options{Limits: []audit.Limit{limit}}, events).UsageSeries[0]
	if mostUsed(c.Used) != 40 || mostUsed(c.WithFallback) != 70 {
		t.Errorf("at most %d used, %d with fallback, want 40 and 70", mostUsed(c.Used), mostUsed(c.WithFallback))
	}
	for _, list := range [][]audit.Point{c.Used, c.WithFallback} {
		for _, p := range list {
			if p.At%c.Step != 0 {
				t.Errorf("a point at %v, in steps of %v", p.At, c.Step)
			}
		}
	}
}

// Of many limits, the busiest of each dimension are selected, independently of the order
// of the log and of the workers.
func TestSeriesAreTheBusiest(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{
		{Dimension: audit.Requests, Amount: 100},
		{Dimension: audit.Tokens, Amount: 1000},
		{Dimension: audit.Spend, Amount: 10}, // without a price nothing is charged
	}}
	var events []bench.Event
	for k := range 50 {
		for i := range k/2 + 1 { // two keys each are as busy
			c := check(fmt.Sprintf("org%d/u%02d", k%7, k), i, 1)
			c.InputTokens = int64(50 - k)
			events = append(events, event(bench.OpCheck, c, at(i), at(i)+ms, allowed))
		}
	}
	var first []audit.UsageSeries
	for round := range 5 {
		rand.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		r := run(t, o, events)
		wantSeries(t, r)
		if round == 0 {
			first = r.UsageSeries
			continue
		}
		if diff := cmp.Diff(first, r.UsageSeries); diff != "" {
			t.Fatalf("round %d differs (-first +now):\n%s", round, diff)
		}
	}
	if len(first) != 12 {
		t.Fatalf("%d courses, want 12", len(first))
	}
	if c := first[0]; c.Dimension != audit.Requests || c.Scope != "org0/u49" || c.Calls != 25 {
		t.Errorf("the first is of %v, want the busiest key", c.LimitRef)
	}
	if c := first[1]; c.Dimension != audit.Tokens {
		t.Errorf("the second is of %v, want one of tokens", c.LimitRef)
	}
}

// A day has no more points than a minute.
func TestLongSeries(t *testing.T) {
	var events []bench.Event
	for i := range 24 * 60 {
		sent := time.Duration(i) * time.Minute
		events = append(events, event(bench.OpCheck, check("k", i, 1), sent, sent+ms, allowed))
	}
	r := run(t, audit.Options{Limits: []audit.Limit{requests(2000)}}, events)
	wantSeries(t, r)
	c := r.UsageSeries[0]
	if n := len(c.Used); n < 50 || c.Used[n-1].Used != 24*60 {
		t.Errorf("%d points, the last one %v", n, c.Used[n-1])
	}
}
