// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// events collects the events of a run.
type events struct {
	mu   sync.Mutex
	list []Event
}

func (e *events) add(v Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, v)
}

func TestCallsAreSentExactlyWhenTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log events
		r := mustRun(t, Options{
			Target: after(3 * time.Millisecond), Workload: checks(-1), Arrivals: constantly(t, 3000),
			Duration: 2 * time.Second, OnEvent: log.add,
		})
		if len(log.list) != 6000 || r.Offered != 6000 || r.Allowed != 6000 {
			t.Fatalf("%d events, %+v, want 6000 each", len(log.list), r.Counts)
		}
		seen := make(map[string]bool)
		for _, e := range log.list {
			if e.Due != e.Sent || e.Done-e.Sent != 3*time.Millisecond || e.Op != OpCheck {
				t.Fatalf("due %v, sent %v, done %v", e.Due, e.Sent, e.Done)
			}
			seen[e.Call.ID] = true
		}
		if len(seen) != 6000 {
			t.Errorf("%d different calls were sent, want 6000", len(seen))
		}
		l := r.Latency(OpCheck)
		for _, d := range []time.Duration{l.Min, l.P50, l.P999, l.Max, r.ServiceTime(OpCheck).P50} {
			if !near(d, 3*time.Millisecond) {
				t.Errorf("latency %v, want 3ms", d)
			}
		}
		if r.Pacer.Late() || r.Pacer.Lateness.Max != 0 || r.Pacer.Lateness.Count != 6000 {
			t.Errorf("pacer %+v, want all on time", r.Pacer.Lateness)
		}
		// The last 9 are answered after the end.
		if r.After.Allowed != 9 || r.Completed != 5991 || r.Duration != 2*time.Second || len(r.Series) != 2 {
			t.Errorf("after %+v, completed %d, duration %v, %d intervals", r.After, r.Completed, r.Duration, len(r.Series))
		}
	})
}

// stalling answers in a millisecond, except during a stall of 200 ms.
func stalling(begin time.Time) CheckFunc {
	return func(ctx context.Context, _ *Call) (Answer, error) {
		const from, to = 4 * time.Second, 4200 * time.Millisecond
		d := time.Millisecond
		if now := time.Since(begin); now >= from && now < to {
			d += to - now
		}
		return Answer{Outcome: Allowed}, wait(ctx, d)
	}
}

func TestAStallIsSeenInTheOpenLoopAndHiddenInTheClosedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := mustRun(t, Options{
			Target: stalling(time.Now()), Workload: checks(-1), Arrivals: constantly(t, 1000), Duration: 10 * time.Second,
		}).Latency(OpCheck)
		closed := mustRun(t, Options{
			Target: stalling(time.Now()), Workload: checks(-1), Callers: 1, Duration: 10 * time.Second,
		}).Latency(OpCheck)
		// 200 of 10,000 calls were due during the stall, one per millisecond.
		if open.P999 < 185*time.Millisecond || open.P999 > 201*time.Millisecond {
			t.Errorf("open loop: p99.9 is %v, want just below the stall of 200ms", open.P999)
		}
		if open.P99 < 95*time.Millisecond || open.P99 > 105*time.Millisecond {
			t.Errorf("open loop: p99 is %v, want half of the stall", open.P99)
		}
		// The one caller waited for the stall once, in 9,800 calls.
		if closed.P999 > 2*time.Millisecond || closed.Count != 9800 {
			t.Errorf("closed loop: p99.9 is %v of %d calls: the naive measure should hide the stall", closed.P999, closed.Count)
		}
		for _, l := range []*Latency{open, closed} {
			if !near(l.Max, 201*time.Millisecond) {
				t.Errorf("max is %v, want the stall in both", l.Max)
			}
		}
	})
}

// A request that waits for a free caller is sent late and measured from when it was
// due.
func TestLatencyCountsFromTheDueTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		workload := WorkloadFunc(func(c *Call) bool {
			calls++
			*c = Call{Key: "a", ID: "b", LLM: true, Duration: time.Second}
			return calls <= 2
		})
		times, err := Times([]time.Duration{0, 300 * time.Millisecond}, 1)
		target := &fakeLLM{settle: 800 * time.Millisecond}
		var log events
		mustRun(t, Options{
			Target: target, Workload: workload, Arrivals: mustArrive(t, times, err), Callers: 1, OnEvent: log.add,
		})
		last := log.list[len(log.list)-1]
		if last.Op != OpSettle || last.Due != 1300*time.Millisecond || last.Sent != 1800*time.Millisecond {
			t.Errorf("%v: due %v, sent %v, want 1.3s and 1.8s", last.Op, last.Due, last.Sent)
		}
	})
}

func TestCallsBeyondTheMaximumAreDroppedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		target := CheckFunc(func(ctx context.Context, c *Call) (Answer, error) {
			sent.Add(1)
			return after(100*time.Millisecond)(ctx, c)
		})
		r := mustRun(t, Options{
			Target: target, Workload: checks(-1), Arrivals: constantly(t, 1000), Callers: 10, Duration: 5 * time.Second,
		})
		// Ten callers get 100 calls done per second.
		if r.Offered != 5000 || r.Allowed < 490 || r.Allowed > 510 || r.Allowed != sent.Load() {
			t.Errorf("%+v, sent %d, want about 500 of 5000 sent", r.Counts, sent.Load())
		}
		if r.Dropped != r.Offered-r.Allowed {
			t.Errorf("dropped %d, want %d", r.Dropped, r.Offered-r.Allowed)
		}
		if l := r.Latency(OpCheck); !near(l.Max, 100*time.Millisecond) {
			t.Errorf("max %v: what is dropped must not be in the latencies", l.Max)
		}
	})
}

func TestTheWarmUpIsSentAndNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		target := CheckFunc(func(ctx context.Context, _ *Call) (Answer, error) {
			if time.Since(begin) < 1500*time.Millisecond { // cold
				return Answer{Outcome: Denied, Reason: "cold"}, wait(ctx, 50*time.Millisecond)
			}
			return Answer{Outcome: Allowed}, wait(ctx, time.Millisecond)
		})
		var log events
		var progress []Interval
		r := mustRun(t, Options{
			Target: target, Workload: checks(-1), Arrivals: constantly(t, 100), Warmup: 1500 * time.Millisecond,
			Duration: 2500 * time.Millisecond, OnEvent: log.add, OnInterval: func(i Interval) { progress = append(progress, i) },
		})
		if r.Offered != 250 || r.Allowed != 250 || len(log.list) != 400 {
			t.Errorf("%+v, %d events, want 250 measured of 400", r.Counts, len(log.list))
		}
		if l := r.Latency(OpCheck); !near(l.Max, time.Millisecond) {
			t.Errorf("max is %v, want 1ms", l.Max)
		}
		// Decisions of the warm-up that arrived later: from 1460 ms on, each 10 ms.
		if r.Completed != 250+5 {
			t.Errorf("completed %d, want 255", r.Completed)
		}
		type span struct {
			At, Length time.Duration
			Warmup     bool
			Offered    int64
		}
		var got []span
		for _, i := range progress {
			got = append(got, span{i.At, i.Length, i.Warmup, i.Offered})
		}
		const ms = time.Millisecond
		want := []span{
			{0, 500 * ms, true, 50},
			{500 * ms, 1000 * ms, true, 100},
			{1500 * ms, 1000 * ms, false, 100},
			{2500 * ms, 1000 * ms, false, 100},
			{3500 * ms, 500 * ms, false, 50},
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("progress (-want +got):\n%s", d)
		}
	})
}

func TestAClosedLoopKeepsItsCallersBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, Options{
			Target: after(10 * time.Millisecond), Workload: checks(-1), Callers: 7,
			Warmup: 100 * time.Millisecond, Duration: time.Second,
		})
		if r.Offered != 700 || r.Completed != 700 || r.Rate() != 700 || r.Pacer != nil || r.OpenLoop {
			t.Errorf("%+v, completed %d, rate %v, want 700", r.Counts, r.Completed, r.Rate())
		}
		if r.After != (Counts{Allowed: 7}) {
			t.Errorf("after the end %+v, want the last of each caller", r.After)
		}
	})
}

func TestARunEndsWithItsWorkload(t *testing.T) {
	for _, open := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			o := Options{Target: after(250 * time.Millisecond), Workload: checks(21), Callers: 1}
			if open {
				o.Arrivals, o.Callers = constantly(t, 10), 0
			}
			r := mustRun(t, o)
			want := 2*time.Second + 250*time.Millisecond + 1
			if !open {
				want = 21*250*time.Millisecond + 1
			}
			if r.Offered != 21 || r.Allowed != 21 || r.Duration != want {
				t.Errorf("open %v: %+v in %v, want 21 in %v", open, r.Counts, r.Duration, want)
			}
			// A longer Duration changes nothing.
			o.Workload, o.Duration = checks(21), time.Minute
			if open {
				o.Arrivals = constantly(t, 10)
			}
			if r := mustRun(t, o); r.Offered != 21 || r.Duration != want {
				t.Errorf("open %v: %+v in %v, want 21 in %v", open, r.Counts, r.Duration, want)
			}
		})
	}
}

func TestOutcomesRoutesAndErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken pipe")
		i := 0
		target := CheckFunc(func(ctx context.Context, _ *Call) (Answer, error) {
			i++
			switch i % 5 {
			case 0:
				return Answer{}, broken
			case 1:
				return Answer{Outcome: Denied, Route: "local"}, nil
			case 2:
				return Answer{Outcome: Degraded, Route: "forward"}, wait(ctx, 2*time.Millisecond)
			case 3:
				return Answer{}, nil // an invalid answer
			}
			return Answer{Outcome: Allowed, Route: "forward"}, wait(ctx, time.Millisecond)
		})
		r := mustRun(t, Options{Target: target, Workload: checks(50), Arrivals: constantly(t, 100)})
		want := Counts{Offered: 50, Allowed: 10, Degraded: 10, Denied: 10, Failed: 20}
		if r.Counts != want || r.Achieved() != 30 {
			t.Errorf("got %+v, want %+v", r.Counts, want)
		}
		wantErrors := []ErrorCount{{OpCheck, "broken pipe", 10}, {OpCheck, errNoOutcome.Error(), 10}}
		if d := cmp.Diff(wantErrors, r.Errors); d != "" {
			t.Errorf("errors (-want +got):\n%s", d)
		}
		for _, row := range []struct {
			route   string
			outcome Outcome
			count   int64
		}{{"", 0, 50}, {"forward", 0, 20}, {"forward", Allowed, 10}, {"local", 0, 10}, {"", Failed, 20}, {"local", Denied, 10}} {
			l := r.Find(OpCheck, row.route, row.outcome)
			if l == nil || l.Count != row.count {
				t.Errorf("row %q %v: %+v, want %d", row.route, row.outcome, l, row.count)
			}
		}
		if l := r.Find(OpCheck, "local", Allowed); l != nil {
			t.Errorf("a row of nothing: %+v", l)
		}
	})
}

func TestATimeoutEndsARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, Options{
			Target: after(time.Hour), Workload: checks(-1), Arrivals: constantly(t, 1000),
			Duration: time.Second, Timeout: 200 * time.Millisecond,
		})
		l := r.Latency(OpCheck)
		if r.Failed != 1000 || l.Min < 199*time.Millisecond || l.Max > 205*time.Millisecond {
			t.Errorf("%+v, min %v, max %v, want all to fail after 200 to 204ms", r.Counts, l.Min, l.Max)
		}
	})
}

func TestATargetThatNeverAnswersDoesNotBlockTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := make(chan struct{})
		target := CheckFunc(func(_ context.Context, c *Call) (Answer, error) {
			if c.ID == "3" {
				<-never // ignores its context
			}
			return Answer{Outcome: Allowed}, nil
		})
		r := mustRun(t, Options{Target: target, Workload: checks(10), Arrivals: constantly(t, 10), DrainTimeout: -1})
		if r.Unfinished != 1 || r.Allowed != 9 || r.Offered != 10 {
			t.Errorf("%d unfinished, %+v, want 1 of 10", r.Unfinished, r.Counts)
		}
		close(never)
	})
}

func TestACancelledRunReturnsAPartialResult(t *testing.T) {
	for _, open := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			enough := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(2500*time.Millisecond+1, func() { cancel(enough) })
			o := Options{Target: after(20 * time.Millisecond), Workload: checks(-1), Callers: 1, Duration: time.Hour}
			if open {
				o.Arrivals, o.Callers = constantly(t, 50), 0
			}
			r, err := Run(ctx, o)
			if !errors.Is(err, enough) {
				t.Fatalf("err = %v, want the cause", err)
			}
			assertAddsUp(t, r)
			if r.Failed != 0 || r.Offered != 126 || r.Duration != 2500*time.Millisecond+1 || len(r.Series) != 3 {
				t.Errorf("open %v: %+v in %v, %d intervals, want 126 and no failure", open, r.Counts, r.Duration, len(r.Series))
			}
		})
	}
}

func TestTheSameSeedsGiveTheSameRun(t *testing.T) {
	once := func() *Result {
		var r *Result
		synctest.Test(t, func(t *testing.T) {
			p, err := Poisson(500, 7)
			r = mustRun(t, Options{
				Target: after(time.Millisecond), Workload: checks(-1), Arrivals: mustArrive(t, p, err), Duration: 3 * time.Second,
			})
		})
		return r
	}
	ignore := cmp.Options{
		cmpopts.IgnoreFields(Result{}, "Started", "ClientCPU"), cmpopts.IgnoreUnexported(Latency{}),
		cmpopts.IgnoreFields(Interval{}, "InFlight"), // depends on the order of events at the end of an interval
	}
	if d := cmp.Diff(once(), once(), ignore); d != "" {
		t.Errorf("two runs differ:\n%s", d)
	}
}

func TestAResultIsJSON(t *testing.T) {
	var r *Result
	synctest.Test(t, func(t *testing.T) {
		r = mustRun(t, Options{Target: after(time.Millisecond), Workload: checks(100), Arrivals: constantly(t, 100)})
	})
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"op":"check"`, `"offered":100`, `"outcome":"allowed"`, `"p999_ns":`, `"client_cpu_ns":`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	var again Result
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, &again, cmpopts.IgnoreUnexported(Latency{}), cmpopts.EquateApproxTime(0)); d != "" {
		t.Errorf("after a round trip (-want +got):\n%s", d)
	}
	h, err := again.Latency(OpCheck).Histogram()
	if err != nil || h.TotalCount() != 100 {
		t.Errorf("histogram: %v, %v, want 100 values", h, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := Run(t.Context(), Options{Warmup: -1, Duration: -1, Timeout: -1, Interval: time.Millisecond})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"target:", "workload:", "warmup:", "duration:", "timeout:", "interval:", "callers:"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q does not name %s", err, field)
		}
	}
}
