// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/workload"
)

func TestSearchFindsTheCapacity(t *testing.T) {
	for _, from := range []float64{10, 1_000, 500_000} {
		for _, capacity := range []float64{25, 900, 1_100, 41_000, 700_000} {
			tries := 0
			got, err := search(from, func(rate float64) (bool, error) { tries++; return rate <= capacity, nil })
			if err != nil || got > capacity || got < capacity/capacityPrecision || tries > 25 {
				t.Errorf("from %v: found %v in %d tries, %v, want at most %v and at least a tenth less", from, got, tries, err, capacity)
			}
		}
	}
	if got, err := search(1_000, func(float64) (bool, error) { return false, nil }); got != 0 || err != nil {
		t.Errorf("capacity of a target that answers nothing: %v, %v, want 0", got, err)
	}
	enough := errors.New("enough")
	if _, err := search(1_000, func(float64) (bool, error) { return false, enough }); !errors.Is(err, enough) {
		t.Errorf("error %v, want that of the probe", err)
	}
	if got, err := search(1_000, func(float64) (bool, error) { return true, nil }); got <= highRate/2 || math.IsInf(got, 0) || err != nil {
		t.Errorf("capacity without an end: %v, %v", got, err)
	}
}

// server answers calls one after the other, each in a time. If it sheds, it refuses what
// would wait for more than 20 ms. Otherwise it queues everything.
type server struct {
	bench.CheckFunc
	each  time.Duration
	sheds bool

	mu   sync.Mutex
	free time.Time // when all calls so far are done
}

func (s *server) Name() string { return "server" }

func (s *server) Check(ctx context.Context, _ *bench.Call) (bench.Answer, error) {
	s.mu.Lock()
	now := time.Now()
	if s.free.Before(now) {
		s.free = now
	}
	if s.sheds && s.free.Sub(now) > 20*time.Millisecond {
		s.mu.Unlock()
		return bench.Answer{}, &bench.OverloadedError{RetryAfter: 10 * time.Millisecond}
	}
	s.free = s.free.Add(s.each)
	done := time.NewTimer(s.free.Sub(now))
	s.mu.Unlock()
	defer done.Stop()
	select {
	case <-done.C:
		return bench.Answer{Outcome: bench.Allowed}, nil
	case <-ctx.Done():
		return bench.Answer{}, ctx.Err()
	}
}

// measureOverload measures a target in a bubble, where time costs nothing.
func measureOverload(t *testing.T, target bench.Target) *report.Run {
	t.Helper()
	calls, err := workload.Parse("keys=uniform:100")
	if err != nil {
		t.Fatal(err)
	}
	var run *report.Run
	synctest.Test(t, func(t *testing.T) {
		o := Options{Target: "server:", Workload: calls, Overload: true, Duration: 5 * time.Second, Warmup: 2 * time.Second, Timeout: time.Second, Arrivals: Constant, Rate: 100}
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		r := &runner{o: o.withDefaults(), began: time.Now()}
		r.targets = []*measuredTarget{{name: "server", letter: "a", kind: "null", target: target}}
		if err := r.runRounds(t.Context()); err != nil {
			t.Fatal(err)
		}
		if run, err = r.document(); err != nil {
			t.Fatal(err)
		}
	})
	return run
}

// A server that sheds load keeps its goodput, and is normal at once afterwards.
func TestOverloadOfATargetThatRefuses(t *testing.T) {
	run := measureOverload(t, &server{each: time.Millisecond, sheds: true})
	o := run.Targets[0].Overload
	if o.Capacity < 800 || o.Capacity > 1_020 || len(o.Steps) != len(overloadTimes) {
		t.Fatalf("capacity %v and %d steps, want about 1,000 and %d", o.Capacity, len(o.Steps), len(overloadTimes))
	}
	if worst, share := o.Worst(); o.Collapsed() || share < 0.97 || o.Peak() < 980 || o.Peak() > 1_020 {
		t.Errorf("peak %v, lowest %v at %vx, want about 1,000 throughout", o.Peak(), share, worst.Times)
	}
	for i := range o.Steps {
		s := &o.Steps[i]
		if want := s.Times * o.Capacity; math.Abs(s.Offered-want) > 2 || math.Abs(s.Sent-want) > 2 || s.Calls.Failed != 0 {
			t.Errorf("%vx: offered %v, sent %v, %d failed, want %v and no failure", s.Times, s.Offered, s.Sent, s.Calls.Failed, want)
		}
		if s.Times <= 1 {
			continue
		}
		if refused := float64(s.Calls.Refused) / float64(s.Calls.Offered); math.Abs(refused-(1-1_000/s.Offered)) > 0.02 {
			t.Errorf("%vx: %v refused, want what is beyond 1,000 calls/s", s.Times, refused)
		}
		if c := s.Control; c == nil || c.ToTarget < 0.97*o.Peak() || math.Abs(c.Sent-s.Offered) > 2 || c.Answered < 0.9*o.Peak() || s.Bare != nil {
			t.Errorf("%vx: control %+v, want that about %v were sent and answered, of the same load", s.Times, c, o.Peak())
		}
		if s.RefusedP99 > time.Millisecond || s.P99 > 25*time.Millisecond || s.SentP99 == 0 || s.Watched != watchTime || s.Recovery > 100*time.Millisecond || s.Recovery < 0 {
			t.Errorf("%vx: refused within %v, p99 %v, back in %v, want at once, 21ms and at once", s.Times, s.RefusedP99, s.P99, s.Recovery)
		}
	}
	if x := run.Targets[0]; len(x.Marks) != len(o.Steps) || x.Refused == 0 || x.Duration != 5*time.Second {
		t.Errorf("%d marks, %+v in %v, want those of all steps", len(x.Marks), x.Counts, x.Duration)
	}
}

// A server that queues everything answers nothing in time, until the queue is empty.
func TestOverloadOfATargetThatQueues(t *testing.T) {
	run := measureOverload(t, &server{each: time.Millisecond})
	o := run.Targets[0].Overload
	worst, share := o.Worst()
	if !o.Collapsed() || share > 0.05 || worst.Times < 2 || o.Peak() < 700 {
		t.Fatalf("peak %v, lowest %v: %s, want a collapse", o.Peak(), share, o.Summary())
	}
	for i := range o.Steps {
		if s := &o.Steps[i]; s.Times > 2 && s.Recovery != report.NeverNormal {
			t.Errorf("%vx: back to normal in %v, want not within %v", s.Times, s.Recovery, watchTime)
		} else if s.Times > 2 && s.Control != nil {
			t.Errorf("%vx: control %+v, want none while the target has not recovered", s.Times, s.Control)
		}
	}
	var text strings.Builder
	if err := report.WriteSummary(&text, run, report.TextOptions{}); err != nil || !strings.Contains(text.String(), "overload: COLLAPSED: goodput falls to ") {
		t.Errorf("%v in a summary of\n%s", err, text.String())
	}
}

func TestOverloadEndsEarly(t *testing.T) {
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2500*time.Millisecond, enough)
	defer cancel()
	calls, err := workload.Parse("keys=uniform:100")
	if err != nil {
		t.Fatal(err)
	}
	run, err := Run(ctx, Options{
		Target: "null:1ms", Workload: calls, Overload: true, Rate: 200, Duration: time.Minute,
	})
	if !errors.Is(err, enough) || run == nil || run.Targets[0].Overload == nil || len(run.Targets[0].Overload.Probes) == 0 {
		t.Errorf("got %+v, %v, want the probes so far and the cause", run, err)
	}
}

func TestValidateOverload(t *testing.T) {
	replay, err := workload.Parse("replay=10x")
	if err != nil {
		t.Fatal(err)
	}
	fine := Options{Target: "null:", Overload: true, Duration: 5 * time.Second}
	if err := fine.Validate(); err != nil || fine.TurnLength() != time.Second {
		t.Errorf("%v, a step of %v, want none and 1s", err, fine.TurnLength())
	}
	for want, spoil := range map[string]func(*Options){
		"overload: must not be set for a replay":    func(o *Options) { o.Workload = replay },
		"overload: needs one round, got 2":          func(o *Options) { o.Rounds = 2 },
		"overload: must not be set together with":   func(o *Options) { o.LocalNodes, o.Faults = 1, []local.Fault{{Kind: local.Kill, Node: 1}} },
		"for: must be at least 500ms for each of 5": func(o *Options) { o.Duration = time.Second },
		"callers: must not be negative":             func(o *Options) { o.Callers = -1 },
		"rate: must not be negative, got -1":        func(o *Options) { o.Rate = -1 },
	} {
		o := fine
		spoil(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
}
