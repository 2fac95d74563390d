// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// checks is a workload of n checks with the ids 0, 1, 2; without end if n < 0.
func checks(n int) Workload {
	i := 0
	return WorkloadFunc(func(c *Call) bool {
		if i == n {
			return false
		}
		c.Key, c.ID = "acme/alice", fmt.Sprint(i)
		i++
		return true
	})
}

func allow(context.Context, *Call) (Answer, error) { return Answer{Outcome: Allowed}, nil }

// after allows every call after d.
func after(d time.Duration) CheckFunc {
	return func(ctx context.Context, _ *Call) (Answer, error) {
		if err := wait(ctx, d); err != nil {
			return Answer{}, err
		}
		return Answer{Outcome: Allowed}, nil
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func mustArrive(t testing.TB, a Arrivals, err error) Arrivals {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func constantly(t testing.TB, rate float64) Arrivals {
	t.Helper()
	a, err := Constant(rate)
	return mustArrive(t, a, err)
}

func mustRun(t testing.TB, o Options) *Result {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	assertAddsUp(t, r)
	return r
}

// assertAddsUp checks what must hold for every result.
func assertAddsUp(t testing.TB, r *Result) {
	t.Helper()
	sum := r.After
	at := r.Warmup
	for i, iv := range r.Series {
		sum.add(iv.Counts)
		if iv.At != at || iv.Warmup {
			t.Errorf("series[%d] begins at %v, want %v", i, iv.At, at)
		}
		at += iv.Length
	}
	if sum != r.Counts {
		t.Errorf("series and after add up to %+v, counts are %+v", sum, r.Counts)
	}
	if at != r.Warmup+r.Duration {
		t.Errorf("series end at %v, the measured part at %v", at, r.Warmup+r.Duration)
	}
	ended := r.Achieved() + r.Failed + r.Refused + r.Dropped
	if r.Unfinished == 0 && r.Offered != ended {
		t.Errorf("offered %d, but %d ended: %+v", r.Offered, ended, r.Counts)
	}
	var answered int64
	for _, op := range []Op{OpCheck, OpReserve} {
		if l := r.Latency(op); l != nil {
			answered += l.Count
		}
	}
	if answered != r.Achieved()+r.Failed {
		t.Errorf("%d latencies of checks and reserves, want %d", answered, r.Achieved()+r.Failed)
	}
}

// near reports whether two times are equal within the precision of a histogram.
func near(got, want time.Duration) bool { return (got - want).Abs() <= want/500+1 }
