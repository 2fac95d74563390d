// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

var minute = limiter.Window{Unit: limiter.UnitMinute}

func (n *node) count(now limiter.Time, q limiter.CountRequest) limiter.CountResult {
	n.t.Helper()
	var d limiter.CountResult
	if err := n.Count(now, &q, &d); err != nil {
		n.t.Fatalf("Count(%+v) = %v, want an answer", q, err)
	}
	return d
}

// hit returns a request for hits on a counter with a limit of 10 a minute.
func hit(hits int64) limiter.CountRequest {
	return limiter.CountRequest{Key: "k", Window: minute, Limit: 10, Hits: hits}
}

// back returns a request that gives hits back.
func back(hits int64) limiter.CountRequest {
	q := hit(hits)
	q.GiveBack = true
	return q
}

func wantCounted(t testing.TB, what string, d limiter.CountResult, used int64, over bool) {
	t.Helper()
	if d.Used != used || d.Over != over || d.Full {
		t.Fatalf("%s = %+v, want %d used, over: %v", what, d, used, over)
	}
}

// TestCountIsTheModel compares counters with a log of all hits: with windows of any
// unit, clocks that step back, repeated ids, forced hits and restarts.
func TestCountIsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n, now := newNode(t, limiter.Options{}), noon
		windows := [...]limiter.Window{anyWindow(rt), anyWindow(rt)}
		m := &countModel{counters: map[counterName]*countLog{}, answers: map[string]countAnswer{}}
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			now.Mono += rapid.SampledFrom([]int64{0, 1, int64(time.Second), int64(31 * time.Second), int64(11 * time.Minute)}).Draw(rt, "passes")
			now.Wall += int64(rapid.SampledFrom([]time.Duration{0, 1, time.Second, time.Minute, 25 * time.Hour, 40 * 24 * time.Hour, 400 * 24 * time.Hour, -time.Second, -time.Hour}).Draw(rt, "clock"))
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				data := n.Snapshot(now, limiter.PartitionOf("root"), nil)
				n = newNode(t, limiter.Options{})
				if err := n.Restore(now, limiter.PartitionOf("root"), data, time.LoadLocation); err != nil {
					rt.Fatalf("Restore = %v, want no error", err)
				}
			}
			q := limiter.CountRequest{
				Key:      rapid.SampledFrom([]string{"root", "root/a"}).Draw(rt, "key"),
				Window:   rapid.SampledFrom(windows[:]).Draw(rt, "window"),
				Limit:    rapid.SampledFrom([]int64{0, 5, 10, limiter.MaxAmount}).Draw(rt, "limit"),
				Hits:     rapid.SampledFrom([]int64{0, 1, 3, 7}).Draw(rt, "hits"),
				GiveBack: rapid.IntRange(0, 3).Draw(rt, "back") == 0,
				Force:    rapid.IntRange(0, 4).Draw(rt, "force") == 0,
			}
			if rapid.Bool().Draw(rt, "with an id") {
				q.ID = rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(rt, "id")
			}
			if q.Force && rapid.Bool().Draw(rt, "late") {
				_, q.WindowEnd = q.Window.Bounds(now.Wall - int64(rapid.SampledFrom([]time.Duration{0, time.Minute, 400 * 24 * time.Hour}).Draw(rt, "by")))
			}
			want, conflict := m.count(now, q)
			var got limiter.CountResult
			switch err := n.Count(now, &q, &got); {
			case conflict != errors.Is(err, limiter.ErrConflict) || err != nil && !conflict:
				rt.Fatalf("step %d: Count(%+v) = %v, want a conflict: %v", i, q, err, conflict)
			case err == nil && without(got) != want:
				rt.Fatalf("step %d: Count(%+v) = %+v, want %+v", i, q, got, want)
			}
		}
	})
}

// without returns the result without what the model does not have.
func without(d limiter.CountResult) limiter.CountResult {
	d.Change, d.Large = 0, false
	return d
}

// countModel is a naive model of all counters.
type countModel struct {
	counters map[counterName]*countLog
	answers  map[string]countAnswer
}

type counterName struct {
	key      string
	unit     limiter.Unit
	multiple uint32
}

// countLog is the log of the hits of a counter, and the end of its latest window.
type countLog struct {
	open bool // the counter exists
	end  int64
	hits []loggedHits
}

type loggedHits struct{ end, more int64 }

type countAnswer struct {
	request   string
	used, end int64
	until     int64
}

func (m *countModel) count(now limiter.Time, q limiter.CountRequest) (d limiter.CountResult, conflict bool) {
	name := counterName{q.Key, q.Window.Unit, max(q.Window.Multiple, 1)}
	request := fmt.Sprint(name, q.Hits, q.GiveBack)
	if a, ok := m.answers[q.ID]; ok && q.ID != "" && now.Mono < a.until {
		if a.request != request {
			return d, true
		}
		return limiter.CountResult{Used: a.used, End: a.end, Reset: max(a.end-now.Wall, 1), Over: a.used > q.Limit, Replayed: true}, false
	}
	l := m.counters[name]
	if l == nil {
		l = &countLog{}
		m.counters[name] = l
	}
	end := l.end
	if now.Wall >= end {
		_, end = walkedWindow(q.Window, now.Wall)
	}
	if l.open {
		l.end = end
	}
	if q.Force && q.WindowEnd != 0 && q.WindowEnd < end {
		// their window is over
	} else if q.Hits > 0 {
		more := q.Hits
		if q.GiveBack {
			more = -more
		} else {
			l.open, l.end = true, end
		}
		l.hits = append(l.hits, loggedHits{end, more})
	}
	used := int64(0)
	for _, h := range l.hits {
		if h.end == end {
			used = max(used+h.more, 0)
		}
	}
	if q.ID != "" && q.Hits > 0 {
		until := now.Mono + int64(30*time.Second)
		if q.Force {
			until = now.Mono + int64(10*time.Minute)
		}
		m.answers[q.ID] = countAnswer{request, used, end, until}
	}
	return limiter.CountResult{Used: used, End: end, Reset: end - now.Wall, Over: used > q.Limit}, false
}

// TestHitsBeyondTheLimitAreCounted checks that Over includes the hits of the request,
// and that hits count when the counter is already over.
func TestHitsBeyondTheLimitAreCounted(t *testing.T) {
	n := newNode(t, limiter.Options{})
	wantCounted(t, "a look at nothing", n.count(noon, hit(0)), 0, false)
	if keys := n.Stats().Keys; keys != 0 {
		t.Errorf("a request of 0 hits creates %d records, want none", keys)
	}
	wantCounted(t, "8", n.count(noon, hit(8)), 8, false)
	wantCounted(t, "2 more", n.count(noon, hit(2)), 10, false)
	wantCounted(t, "a look at the limit", n.count(noon, hit(0)), 10, false)
	wantCounted(t, "5 more", n.count(noon, hit(5)), 15, true)
	wantCounted(t, "1 more", n.count(noon, hit(1)), 16, true)
	wantCounted(t, "a look", n.count(noon, hit(0)), 16, true)
	more := hit(0)
	more.Limit = 16
	wantCounted(t, "a look with a higher limit", n.count(noon, more), 16, false)
	wantCounted(t, "a look in another window", n.count(noon, limiter.CountRequest{Key: "k", Window: limiter.Window{Unit: limiter.UnitHour}, Limit: 10}), 0, false)
	d := n.count(noon.Add(time.Minute-1), hit(0))
	wantCounted(t, "at the end", d, 16, true)
	if d.Reset != 1 || d.End != noon.Add(time.Minute).Wall {
		t.Errorf("reset = %d at %s, want 1 ns before %s", d.Reset, utc(d.End), utc(noon.Add(time.Minute).Wall))
	}
	wantCounted(t, "in the next window", n.count(noon.Add(time.Minute), hit(0)), 0, false)
	zero := hit(1)
	zero.Key, zero.Limit = "zero", 0
	wantCounted(t, "a limit of 0", n.count(noon, zero), 1, true)
}

func TestGiveBackStopsAtZero(t *testing.T) {
	n := newNode(t, limiter.Options{})
	wantCounted(t, "back before anything was used", n.count(noon, back(5)), 0, false)
	wantCounted(t, "12", n.count(noon, hit(12)), 12, true)
	wantCounted(t, "3 back", n.count(noon, back(3)), 9, false)
	wantCounted(t, "100 back", n.count(noon, back(100)), 0, false)
	wantCounted(t, "4", n.count(noon, hit(4)), 4, false)
	wantCounted(t, "4 back in the next window", n.count(noon.Add(time.Minute), back(4)), 0, false)
}

// TestGiveBackIsIdempotent checks that an id gives back once, even from an empty counter.
func TestGiveBackIsIdempotent(t *testing.T) {
	n := newNode(t, limiter.Options{})
	early, late := back(5), back(3)
	early.ID, late.ID = "early", "late"
	wantCounted(t, "back too early", n.count(noon, early), 0, false)
	wantCounted(t, "9", n.count(noon, hit(9)), 9, false)
	wantCounted(t, "back too early, again", n.count(noon.Add(29*time.Second), early), 0, false)
	for i := range 3 {
		d := n.count(noon.Add(time.Second), late)
		wantCounted(t, "3 back", d, 6, false)
		if d.Replayed != (i > 0) {
			t.Errorf("call %d is replayed: %v", i+1, d.Replayed)
		}
	}
	wantCounted(t, "a look", n.count(noon.Add(time.Second), hit(0)), 6, false)
}

// TestCountIDsConflict checks that an id cannot be reused for another kind of call.
func TestCountIDsConflict(t *testing.T) {
	n := newNode(t, limiter.Options{})
	first := hit(1)
	first.ID = "id"
	n.count(noon, first)
	other := first
	other.Limit = 0
	wantCounted(t, "the same with another limit", n.count(noon, other), 1, true)
	for what, change := range map[string]func(*limiter.CountRequest){
		"other hits":   func(q *limiter.CountRequest) { q.Hits = 2 },
		"back":         func(q *limiter.CountRequest) { q.GiveBack = true },
		"other window": func(q *limiter.CountRequest) { q.Window.Multiple = 2 },
		"other unit":   func(q *limiter.CountRequest) { q.Window.Unit = limiter.UnitHour },
		"other key":    func(q *limiter.CountRequest) { q.Key = "k/a" },
	} {
		q := first
		change(&q)
		var d limiter.CountResult
		if err := n.Count(noon, &q, &d); !errors.Is(err, limiter.ErrConflict) {
			t.Errorf("%s: Count = %+v, %v, want a conflict", what, d, err)
		}
	}
	r := &limiter.Request{Key: "k", ID: "id", Plan: n.plan("k", bucketOf(10, 0)), Requests: 1}
	var d limiter.Decision
	if err := n.Check(noon, r, &d); !errors.Is(err, limiter.ErrConflict) {
		t.Errorf("Check with the id of hits = %v, want a conflict", err)
	}
	if err := n.Settle(noon, &limiter.Usage{Key: "k", ID: "id", Final: true}, &d); !errors.Is(err, limiter.ErrConflict) {
		t.Errorf("Settle with the id of hits = %v, want a conflict", err)
	}
	r.ID = "check"
	n.check(noon, r)
	q := hit(1)
	q.ID = "check"
	var c limiter.CountResult
	if err := n.Count(noon, &q, &c); !errors.Is(err, limiter.ErrConflict) {
		t.Errorf("Count with the id of a check = %v, want a conflict", err)
	}
	wantCounted(t, "a look", n.count(noon, hit(0)), 1, false)
}

// TestCountersAreSeparateFromLimits checks a counter and a limit of the same key.
func TestCountersAreSeparateFromLimits(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "k", Plan: n.plan("k", limiter.Limit{Name: "minute", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 10, Window: time.Minute}), Requests: 4}
	n.check(noon, r)
	wantCounted(t, "7", n.count(noon, hit(7)), 7, false)
	wantUsed(t, "the limit", n.peek(noon, r), 0, 4)
}

func TestCountsAboveTheMaximumAreRejected(t *testing.T) {
	n := newNode(t, limiter.Options{})
	q := limiter.CountRequest{Key: "k", Window: limiter.Window{Unit: limiter.UnitYear}, Limit: limiter.MaxAmount, Hits: limiter.MaxAmount}
	last := int64(0)
	var d limiter.CountResult
	for n.Count(noon, &q, &d) == nil {
		if last = d.Used; last > math.MaxInt64/2 {
			t.Fatalf("a counter went to %d", last)
		}
	}
	if field, ok := errors.AsType[*limiter.FieldError](n.Count(noon, &q, &d)); !ok || field.Field != "hits" {
		t.Errorf("Count above the maximum = %v, want an error that names hits", field)
	}
	q.Hits = 0
	if d := n.count(noon, q); d.Used != last || !d.Over {
		t.Errorf("the counter after a rejected count = %+v, want %d used and over", d, last)
	}
}

// TestFloodResetsNoCounter checks that hits on a counter without room are over, and that
// other counters keep their usage.
func TestFloodResetsNoCounter(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeys: limiter.Partitions})
	n.count(noon, hit(3))
	full := 0
	for i := range 3 * limiter.Partitions {
		q := hit(1)
		q.Key = fmt.Sprint("flood", i)
		if d := n.count(noon, q); d.Full {
			full++
			if !d.Over || d.Used != 0 {
				t.Fatalf("no room = %+v, want it over and nothing used", d)
			}
		}
	}
	if full == 0 || n.Stats().TableFull != int64(full) {
		t.Errorf("%d counters found no room and Stats.TableFull = %d, want the same and some", full, n.Stats().TableFull)
	}
	wantCounted(t, "a look at the first", n.count(noon, hit(0)), 3, false)
	n.Sweep(noon.Add(2*time.Minute), 10*limiter.Partitions)
	if keys := n.Stats().Keys; keys != 0 {
		t.Errorf("%d counters remain after their window, want none", keys)
	}
}

// TestForcedCounts checks that forced hits count until the end of their window, and that
// their ids are remembered for 10 minutes.
func TestForcedCounts(t *testing.T) {
	n := newNode(t, limiter.Options{})
	hour := limiter.Window{Unit: limiter.UnitHour}
	_, end := hour.Bounds(noon.Wall)
	forced := func(now limiter.Time, id string) limiter.CountResult {
		return n.count(now, limiter.CountRequest{Key: "k", Window: hour, Limit: 10, Hits: 2, ID: id, Force: true, WindowEnd: end})
	}
	wantCounted(t, "in its window", forced(noon, "1"), 2, false)
	wantCounted(t, "again after 9 minutes", forced(noon.Add(9*time.Minute), "1"), 2, false)
	wantCounted(t, "another", forced(noon.Add(59*time.Minute), "2"), 4, false)
	wantCounted(t, "in the next window", forced(noon.Add(time.Hour), "3"), 0, false)
	wantCounted(t, "a look", n.count(noon.Add(time.Hour), limiter.CountRequest{Key: "k", Window: hour, Limit: 10}), 0, false)
}
