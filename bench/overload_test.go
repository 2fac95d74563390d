// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// refusing answers every n-th call after a time. It refuses half of the others after 2 ms,
// and holds the rest back.
func refusing(n int64, answer time.Duration) CheckFunc {
	var calls atomic.Int64
	return func(ctx context.Context, _ *Call) (Answer, error) {
		switch i := calls.Add(1); {
		case i%n == 0:
			return Answer{Outcome: Allowed}, wait(ctx, answer)
		case i%2 == 1:
			err := wait(ctx, 2*time.Millisecond)
			return Answer{}, errors.Join(err, fmt.Errorf("check: %w", &OverloadedError{RetryAfter: 100 * time.Millisecond}))
		}
		return Answer{}, &OverloadedError{HeldBack: true}
	}
}

func TestRefusedCallsAreNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log events
		r := mustRun(t, Options{
			Target: refusing(10, 20*time.Millisecond), Workload: checks(-1), Arrivals: constantly(t, 1000),
			Duration: 2 * time.Second, OnEvent: log.add,
		})
		if r.Allowed != 200 || r.Refused != 1800 || r.Failed != 0 || r.HeldBack != 800 || len(r.Errors) != 0 {
			t.Errorf("%+v, %d held back, errors %v, want 200 allowed and 1,800 refused, of which 800 held back", r.Counts, r.HeldBack, r.Errors)
		}
		if l := r.Latency(OpCheck); l.Count != 200 || !near(l.Min, 20*time.Millisecond) {
			t.Errorf("%d latencies from %v on, want those of the 200 answers: 20ms", l.Count, l.Min)
		}
		if l := r.Refusals(OpCheck); l.Count != 1000 || !near(l.Min, 2*time.Millisecond) || !near(l.Max, 2*time.Millisecond) {
			t.Errorf("refusals took %v to %v, %d of them, want 2ms and the 1,000 that were sent", l.Min, l.Max, l.Count)
		}
		if l := r.Find(OpCheck, "", Refused); l == nil || l.Count != 1000 {
			t.Errorf("refusals from the due times: %+v, want 1,000", l)
		}
		for _, iv := range r.Series {
			if iv.Refused < 890 || (iv.P50-20*time.Millisecond).Abs() > time.Millisecond {
				t.Errorf("interval at %v: %+v, p50 %v, want 900 refused and the latency of answers", iv.At, iv.Counts, iv.P50)
			}
		}
		for _, e := range log.list {
			if (e.Answer.Outcome == Refused) != errors.Is(e.Err, ErrOverloaded) {
				t.Fatalf("event %+v: the outcome and the error differ", e)
			}
		}
	})
}

// A caller of a closed loop waits for as long as the limiter says.
func TestCallersBackOffAfterRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, Options{
			Target: CheckFunc(func(context.Context, *Call) (Answer, error) {
				return Answer{}, &OverloadedError{RetryAfter: 100 * time.Millisecond}
			}),
			Workload: checks(-1), Callers: 3, Duration: 2 * time.Second,
		})
		if r.Refused != 3*20 || r.Completed != 0 {
			t.Errorf("%+v, %d completed, want 20 refusals for each of 3 callers", r.Counts, r.Completed)
		}
	})
}

// slowPlan is a schedule of 100,000 calls a second whose planning stands still once, for
// longer than plans are ahead of it.
type slowPlan struct{ n int }

func (s *slowPlan) Next() time.Duration {
	if s.n++; s.n == 50_000 {
		time.Sleep(850 * time.Millisecond)
	}
	return time.Duration(s.n) * time.Second / 100_000
}

// A harness that is too slow for the schedule sends what it can on time, and says which
// rate that was.
func TestLateCallsAreMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log events
		r := mustRun(t, Options{
			Target: after(time.Millisecond), Workload: checks(-1), Arrivals: &slowPlan{}, MaxLag: 10 * time.Millisecond,
			Warmup: 500 * time.Millisecond, Duration: time.Second, OnEvent: log.add,
		})
		// Planning is a third of a second ahead, so that the pacer waits for half a second.
		if r.Offered != 100_000 || r.Pacer.Missed != r.Dropped || r.Pacer.Missed < 20_000 || r.Pacer.Missed > 80_000 {
			t.Errorf("%+v, missed %d, want about half of 100,000", r.Counts, r.Pacer.Missed)
		}
		if kept := r.Pacer.KeptRate; kept < float64(r.Allowed)-2_000 || kept > float64(r.Allowed)+2_000 || !r.Pacer.Late() {
			t.Errorf("kept %v calls per second, late %t, want about the %d that were sent, and late", kept, r.Pacer.Late(), r.Allowed)
		}
		for _, e := range log.list {
			if e.Sent-e.Due > 10*time.Millisecond {
				t.Fatalf("a call was sent %v late, want at most 10ms", e.Sent-e.Due)
			}
		}
	})
}

func TestTheRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, Options{Target: after(time.Millisecond), Workload: checks(-1), Arrivals: constantly(t, 500), Warmup: time.Second, Duration: 2 * time.Second})
		if r.Pacer.KeptRate != 500 {
			t.Errorf("kept %v calls per second, want 500", r.Pacer.KeptRate)
		}
	})
}
