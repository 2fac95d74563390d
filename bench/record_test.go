// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestShardsAddUp(t *testing.T) {
	const goroutines, each = 8, 2000
	o := Options{Warmup: 100, Duration: 10_000 * 100, Interval: time.Second}
	r := newRecorder(&o)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				due := time.Duration(100 + 100*i)
				q := sample{op: OpCheck, outcome: Allowed, due: due, sent: due, done: due + time.Duration(1+i)}
				r.countOffered(r.shard(g), due, false)
				r.recordAnswer(r.shard(g), &q)
				r.collectInterval(0)
			}
		})
	}
	wg.Wait()
	total, err := r.total()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range total.latencies {
		if l.Count != goroutines*each || l.Min != 1 || !near(l.P50, each/2) || !near(l.Max, each) {
			t.Errorf("%v %v: count %d, min %v, p50 %v, max %v", l.Op, l.Outcome, l.Count, l.Min, l.P50, l.Max)
		}
	}
	want := Counts{Offered: goroutines * each, Allowed: goroutines * each}
	if got := total.series[1]; got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
}

func TestNamesAreBounded(t *testing.T) {
	o := Options{Duration: time.Hour, Interval: time.Second}
	r := newRecorder(&o)
	for i := range 100 {
		q := sample{op: OpCheck, outcome: Allowed, route: fmt.Sprintf("route %d", i), done: 1}
		r.recordAnswer(r.shard(i), &q)
		q = sample{op: OpCheck, outcome: Failed, err: fmt.Errorf("error %d %s", i, strings.Repeat("x", 300)), done: 1}
		r.recordAnswer(r.shard(0), &q)
	}
	total, err := r.total()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(total.errs); n != maxErrors+1 || total.errs[0] != (ErrorCount{OpCheck, other, 100 - maxErrors}) {
		t.Errorf("%d errors, the first %+v, want the rest under %q", n, total.errs[0], other)
	}
	if n := len(total.errs[1].Message); n != maxErrorBytes {
		t.Errorf("a message of %d bytes, want %d", n, maxErrorBytes)
	}
	var routes int64
	for i := range total.latencies {
		if l := &total.latencies[i]; l.Route != "" && l.Outcome == 0 && !l.ServiceTime {
			routes += l.Count
		}
	}
	if routes != 100 {
		t.Errorf("%d answers have a route, want 100", routes)
	}
}

func TestWindow(t *testing.T) {
	w := &window{from: 2500, interval: 1000, warmupIntervals: 3}
	for _, tt := range []struct {
		at   time.Duration
		want int
	}{{0, 0}, {499, 0}, {500, 1}, {1499, 1}, {1500, 2}, {2499, 2}, {2500, 3}, {3499, 3}, {3500, 4}} {
		got := w.index(tt.at)
		if got != tt.want {
			t.Errorf("index(%d) = %d, want %d", tt.at, got, tt.want)
		}
		if begin, end := w.startOf(got), w.startOf(got+1); tt.at < begin || tt.at >= end {
			t.Errorf("%d is not in [%d, %d)", tt.at, begin, end)
		}
	}
}

func TestASeriesHasThePercentilesOfItsIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		target := CheckFunc(func(ctx context.Context, _ *Call) (Answer, error) {
			d := time.Millisecond
			if time.Since(begin) >= time.Second {
				d = 5 * time.Millisecond
			}
			return Answer{Outcome: Allowed}, wait(ctx, d)
		})
		r := mustRun(t, Options{Target: target, Workload: checks(-1), Arrivals: constantly(t, 100), Duration: 2 * time.Second})
		for i, want := range []time.Duration{time.Millisecond, 5 * time.Millisecond} {
			for _, got := range []time.Duration{r.Series[i].P50, r.Series[i].P99} {
				if (got - want).Abs() > want/50 { // two digits
					t.Errorf("interval %d: %v, want %v", i, got, want)
				}
			}
		}
	})
}

// Planning a call takes ten times as long as the schedule allows.
func TestALatePacerIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := checks(-1)
		slow := WorkloadFunc(func(c *Call) bool {
			time.Sleep(10 * time.Millisecond)
			return next.Next(c)
		})
		r := mustRun(t, Options{Target: CheckFunc(allow), Workload: slow, Arrivals: constantly(t, 1000), Duration: 2 * time.Second})
		if !r.Pacer.Late() || r.Pacer.Missed == 0 || r.Dropped != r.Pacer.Missed || r.Offered != 2000 {
			t.Errorf("%+v, missed %d, late %v", r.Counts, r.Pacer.Missed, r.Pacer.Late())
		}
		// Calls that are sent late have the delay in their latency.
		if l := r.Latency(OpCheck); l.Max < time.Second || l.Count != r.Allowed {
			t.Errorf("max %v of %d", l.Max, l.Count)
		}
		if r.Pacer.Lateness.Max < time.Second {
			t.Errorf("lateness %v", r.Pacer.Lateness.Max)
		}
	})
}

func TestTheSleeperIsPreciseWithTheRealClock(t *testing.T) {
	s := sleeper{start: time.Now()}
	for i := 1; i <= 20; i++ {
		due := time.Duration(i) * 1300 * time.Microsecond
		if now, ok := s.until(due); now < due || !ok {
			t.Fatalf("woke up at %v, want not before %v", now, due)
		}
	}
	stop := make(chan struct{})
	close(stop)
	s.stop = stop
	if now, ok := s.until(time.Hour); ok || now > time.Minute {
		t.Errorf("woke up at %v, %v, want a stop at once", now, ok)
	}
	s.useTimer = true
	if now, ok := s.until(time.Hour); ok || now > time.Minute {
		t.Errorf("by a timer: woke up at %v, %v, want a stop at once", now, ok)
	}
}

func TestNamesMarshalAsText(t *testing.T) {
	for op := OpCheck; op <= OpSettle; op++ {
		text, err := op.MarshalText()
		var again Op
		if err != nil || again.UnmarshalText(text) != nil || again != op {
			t.Errorf("%v: %q, %v", op, text, err)
		}
	}
	var o Outcome
	if err := o.UnmarshalText([]byte("perhaps")); err == nil || Outcome(9).String() != "unknown(9)" {
		t.Errorf("err = %v, %v", err, Outcome(9))
	}
}
