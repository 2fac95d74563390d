// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeLLM is a target with reservations, that records the settles.
type fakeLLM struct {
	answer func(*Call) (Answer, error) // nil: allowed
	settle time.Duration               // how long a settle takes
	fail   func(Usage) error

	mu    sync.Mutex
	usage map[string][]Usage
}

func (*fakeLLM) Name() string { return "fake" }
func (*fakeLLM) Close() error { return nil }

func (*fakeLLM) Check(context.Context, *Call) (Answer, error) {
	return Answer{Outcome: Allowed}, nil
}

func (f *fakeLLM) Reserve(_ context.Context, c *Call) (Answer, error) {
	if f.answer == nil {
		return Answer{Outcome: Allowed}, nil
	}
	return f.answer(c)
}

func (f *fakeLLM) Settle(ctx context.Context, u Usage) (Answer, error) {
	f.mu.Lock()
	if f.usage == nil {
		f.usage = make(map[string][]Usage)
	}
	f.usage[u.ID] = append(f.usage[u.ID], u)
	f.mu.Unlock()
	if f.fail != nil {
		if err := f.fail(u); err != nil {
			return Answer{}, err
		}
	}
	a := Answer{Route: "local"}
	if u.Final {
		a = Answer{Route: "fallback", Owner: "n2"}
	}
	return a, wait(ctx, f.settle)
}

// llms is a workload of n LLM calls.
func llms(n int, c Call) Workload {
	i := 0
	return WorkloadFunc(func(next *Call) bool {
		*next = c
		next.Key, next.LLM, next.ID = "acme/alice", true, fmt.Sprintf("id-%d", i)
		i++
		return i <= n || n < 0
	})
}

func TestTheLifeOfAnLLMCall(t *testing.T) {
	call := Call{InputTokens: 90, OutputTokens: 400, MaxOutputTokens: 800, Duration: time.Second, ProgressReports: 3}
	for _, tt := range []struct {
		name   string
		answer Answer
		err    error
		want   []Usage
		counts Counts
		llm    LLMCounts
	}{
		{
			name: "allowed", answer: Answer{Outcome: Allowed, GrantedOutputTokens: 800},
			want: []Usage{
				{"id-0", "acme/alice", 90, 100, false},
				{"id-0", "acme/alice", 90, 200, false},
				{"id-0", "acme/alice", 90, 300, false},
				{"id-0", "acme/alice", 90, 400, true},
			},
			counts: Counts{Offered: 1, Allowed: 1}, llm: LLMCounts{Held: 1, Reported: 3, Settled: 1},
		},
		{
			name: "degraded below what it would generate, with an id of its own", answer: Answer{Outcome: Degraded, GrantedOutputTokens: 160, ID: "r1"},
			want: []Usage{
				{"r1", "acme/alice", 90, 40, false},
				{"r1", "acme/alice", 90, 80, false},
				{"r1", "acme/alice", 90, 120, false},
				{"r1", "acme/alice", 90, 160, true},
			},
			counts: Counts{Offered: 1, Degraded: 1}, llm: LLMCounts{Held: 1, Reported: 3, Settled: 1},
		},
		{name: "denied", answer: Answer{Outcome: Denied}, counts: Counts{Offered: 1, Denied: 1}},
		{name: "failed", err: errors.New("no route"), counts: Counts{Offered: 1, Failed: 1}},
	} {
		for _, open := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, open %v", tt.name, open), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := &fakeLLM{answer: func(*Call) (Answer, error) { return tt.answer, tt.err }}
					var log events
					o := Options{Target: f, Workload: llms(1, call), Callers: 1, OnEvent: log.add}
					if open {
						o.Arrivals = constantly(t, 1)
					}
					r := mustRun(t, o)
					var got []Usage
					for _, list := range f.usage {
						got = append(got, list...)
					}
					if d := cmp.Diff(tt.want, got); d != "" {
						t.Errorf("settled (-want +got):\n%s", d)
					}
					if r.Counts != tt.counts || r.LLM != tt.llm {
						t.Errorf("%+v %+v, want %+v %+v", r.Counts, r.LLM, tt.counts, tt.llm)
					}
					for i, e := range log.list {
						due := time.Duration(i) * 250 * time.Millisecond
						if e.Due != due || e.Sent != due || e.Call != log.list[0].Call {
							t.Errorf("event %d (%v): due %v, sent %v, want %v", i, e.Op, e.Due, e.Sent, due)
						}
					}
					if len(log.list) != len(tt.want)+1 {
						t.Errorf("%d events, want %d", len(log.list), len(tt.want)+1)
					}
				})
			})
		}
	}
}

func TestThousandsOfLLMCallsNeedFewGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLLM{}
		var last Interval
		before, goroutines := runtime.NumGoroutine(), 0
		const rate, hold = 400, 20
		r := mustRun(t, Options{
			Target: f, Workload: llms(-1, Call{OutputTokens: 10, Duration: hold * time.Second}),
			Arrivals: constantly(t, rate), Callers: 4, Duration: 30 * time.Second, DrainTimeout: time.Minute,
			OnInterval: func(i Interval) {
				last = i
				goroutines = max(goroutines, runtime.NumGoroutine())
			},
		})
		if goroutines > before+20 {
			t.Errorf("%d goroutines, %d without the run", goroutines, before)
		}
		if r.LLM.Held != 30*rate || r.LLM.Settled != 30*rate || r.LLM.CutShort != 0 || r.Dropped != 0 {
			t.Errorf("%+v %+v, want all settled with 4 callers", r.LLM, r.Counts)
		}
		if last.Held < hold*rate-1 || last.Held > hold*rate+1 {
			t.Errorf("%d held at the end, want %d", last.Held, hold*rate)
		}
		if l := r.Latency(OpSettle); l.Count != 10*rate || l.Max != 0 {
			t.Errorf("%d settles were due in the measured part, the slowest took %v, want 4000 at once", l.Count, l.Max)
		}
		for id, u := range f.usage {
			if len(u) != 1 || !u[0].Final {
				t.Fatalf("%s: settled %+v", id, u)
			}
		}
	})
}

func TestLLMCallsAreSettledAfterTheDrainTimeout(t *testing.T) {
	for _, open := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeLLM{}
			o := Options{
				Target: f, Workload: llms(1, Call{OutputTokens: 1000, Duration: 100 * time.Second, ProgressReports: 9}),
				Callers: 1, Duration: 2 * time.Second, DrainTimeout: 20 * time.Second,
			}
			if open {
				o.Arrivals = constantly(t, 0.1)
			}
			r := mustRun(t, o)
			want := []Usage{ // 2 s and 20 s of 100 s
				{"id-0", "acme/alice", 0, 100, false}, {"id-0", "acme/alice", 0, 200, false}, {"id-0", "acme/alice", 0, 220, true},
			}
			if d := cmp.Diff(want, f.usage["id-0"]); d != "" {
				t.Errorf("open %v: settled (-want +got):\n%s", open, d)
			}
			if r.LLM != (LLMCounts{Held: 1, Reported: 2, Settled: 1, CutShort: 1}) || r.Unfinished != 0 {
				t.Errorf("open %v: %+v, want one cut short", open, r.LLM)
			}
		})
	}
}

func TestRequestsOfOneCallDoNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLLM{settle: 700 * time.Millisecond}
		var log events
		r := mustRun(t, Options{
			Target: f, Workload: llms(1, Call{OutputTokens: 4, Duration: time.Second, ProgressReports: 1}),
			Arrivals: constantly(t, 1), OnEvent: log.add,
		})
		settle := log.list[2]
		if settle.Due != time.Second || settle.Sent != 1200*time.Millisecond || settle.Done != 1900*time.Millisecond {
			t.Errorf("due %v, sent %v, done %v, want 1s, 1.2s, 1.9s", settle.Due, settle.Sent, settle.Done)
		}
		if l := r.Latency(OpSettle); !near(l.Max, 900*time.Millisecond) || !near(r.ServiceTime(OpSettle).Max, 700*time.Millisecond) {
			t.Errorf("settle took %v, want 900ms since it was due", l.Max)
		}
	})
}

func TestFailedSettlesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLLM{fail: func(u Usage) error {
			if u.ID == "id-3" {
				return errors.New("gone")
			}
			return nil
		}}
		r := mustRun(t, Options{
			Target: f, Workload: llms(10, Call{Duration: time.Second, ProgressReports: 1}), Arrivals: constantly(t, 10),
		})
		if r.LLM != (LLMCounts{Held: 10, Reported: 9, Settled: 9, SettlesFailed: 1, ReportsFailed: 1}) || r.Failed != 0 {
			t.Errorf("%+v %+v", r.LLM, r.Counts)
		}
		want := []ErrorCount{{OpProgress, "gone", 1}, {OpSettle, "gone", 1}}
		if d := cmp.Diff(want, r.Errors); d != "" {
			t.Errorf("errors (-want +got):\n%s", d)
		}
	})
}

// The log and the latencies have the routes of settles.
func TestRoutesOfSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeLLM{fail: func(u Usage) error {
			if u.ID == "id-1" && u.Final {
				return errors.New("gone")
			}
			return nil
		}}
		var log events
		r := mustRun(t, Options{
			Target: f, Workload: llms(10, Call{Duration: time.Second, ProgressReports: 1}), Arrivals: constantly(t, 10), OnEvent: log.add,
		})
		for _, e := range log.list {
			want := Answer{Route: "local"}
			switch {
			case e.Op == OpReserve:
				continue
			case e.Err != nil:
				want = Answer{}
			case e.Op == OpSettle:
				want = Answer{Route: "fallback", Owner: "n2"}
			}
			if e.Answer != want {
				t.Errorf("%s of %s: answer %+v, want %+v", e.Op, e.Usage.ID, e.Answer, want)
			}
		}
		for _, want := range []struct {
			op    Op
			route string
			n     int64
		}{{OpProgress, "local", 10}, {OpProgress, "fallback", 0}, {OpSettle, "fallback", 9}, {OpSettle, "local", 0}, {OpSettle, "", 10}} {
			l := r.Find(want.op, want.route, 0)
			if got := l != nil; got != (want.n > 0) || got && l.Count != want.n {
				t.Errorf("%s by %q: %+v, want %d", want.op, want.route, l, want.n)
			}
		}
	})
}

func TestATargetWithoutReservationsEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := Run(t.Context(), Options{
			Target: CheckFunc(allow), Workload: llms(-1, Call{}), Arrivals: constantly(t, 10), Duration: time.Hour,
		})
		if !errors.Is(err, ErrNoReservations) || r == nil || r.Offered > 2 {
			t.Errorf("%+v, %v, want ErrNoReservations at once", r, err)
		}
	})
}

func TestMulDiv(t *testing.T) {
	for _, tt := range []struct{ whole, part, parts, want int64 }{
		{100, 1, 3, 33},
		{0, 1, 2, 0},
		{-5, 1, 2, 0},
		{5, 0, 3, 0},
		{7, 1, 0, 7},
		{1 << 62, 1 << 61, 1 << 62, 1 << 61},
	} {
		if got := mulDiv(tt.whole, tt.part, tt.parts); got != tt.want {
			t.Errorf("mulDiv(%d, %d, %d) = %d, want %d", tt.whole, tt.part, tt.parts, got, tt.want)
		}
	}
}
