// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/workload"
	"github.com/bucketring/bucketring/internal/amount"
)

// overloadTimes are the multiples of its capacity that are offered to a target.
var overloadTimes = []float64{0.9, 1, 2, 4, 10}

const (
	// overloadCallers is the number of callers of each load whose usage is read at the end.
	overloadCallers = 500
	minOverloadStep = 500 * time.Millisecond
	// overloadMaxLag is how late the harness sends calls. Under overload it misses those
	// that it cannot send in time, instead of falling further behind with each.
	overloadMaxLag = 100 * time.Millisecond
	// overloadLLM is the longest time of an LLM call, so that reserves, reports and settles
	// are in their steady proportion in each load.
	overloadLLM = 500 * time.Millisecond
	// overloadPause is the time between two loads. LLM calls of the load before end in it.
	overloadPause = time.Second
)

// runOverload measures one target after the other.
func (r *runner) runOverload(ctx context.Context) error {
	for _, s := range r.targets {
		s.overload = &report.Overload{}
		bare, err := r.openBare(ctx, s)
		if err != nil {
			return err
		}
		m := &overloadRun{runner: r, target: s, bare: bare, ctx: ctx}
		err = m.run()
		if bare != nil {
			err = errors.Join(err, bare.target.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// overloadRun measures one target.
type overloadRun struct {
	*runner
	target *measuredTarget
	bare   *measuredTarget // nil if there is none
	ctx    context.Context //nolint:containedctx // of one call of runOverload
	loads  int             // so far
}

// run finds the capacity and offers its multiples.
func (m *overloadRun) run() error {
	s := m.target
	if err := m.findCapacity(); err != nil {
		return err
	}
	if s.overload.Capacity == 0 {
		m.o.Log(fmt.Sprintf("%s does not answer %s calls/s, so nothing more is offered to it", s.name, formatRate(lowestRate)))
		return nil
	}
	m.o.Log(fmt.Sprintf("%s answers up to %s calls/s", s.name, formatRate(s.overload.Capacity)))
	for _, times := range overloadTimes {
		if err := m.step(times); err != nil {
			return err
		}
	}
	return nil
}

// load returns a load at a rate. Each has keys and ids of its own.
func (m *overloadRun) load(rate float64, warmup, duration time.Duration) (*load, error) {
	l := &load{
		round: m.loads, warmup: warmup, duration: duration,
		drain: 2 * overloadLLM, maxLag: overloadMaxLag, longest: overloadLLM,
	}
	m.loads++
	var err error
	if l.calls, err = m.workload(m.target, l.round); err != nil {
		return nil, err
	}
	l.arrivals, err = m.arrivalsAt(rate, l.calls)
	return l, err
}

// pause waits between two loads.
func (m *overloadRun) pause(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
}

// step offers a multiple of the capacity, and watches the target afterwards.
func (m *overloadRun) step(times float64) error {
	s, o := m.target, m.target.overload
	l, err := m.load(times*o.Capacity, m.o.Warmup, m.o.measuredTurn())
	if err != nil {
		return err
	}
	if err := m.pause(overloadPause); err != nil {
		return err
	}
	m.o.OnTurnStart(fmt.Sprintf("%s at %vx", s.name, times))
	var watch *watch
	if times > 1 {
		if watch, err = m.watchAfter(l); err != nil {
			return err
		}
	}
	result, record, err := m.measure(m.ctx, s, l)
	m.o.OnTurnEnd()
	recovered, problem := watch.wait()
	if result == nil {
		return err
	}
	step := newStep(times, result, record)
	if recovered != nil {
		step.Watched, step.Recovery = recovered.Duration, recovery(recovered, o.Steps)
	}
	s.totals.total.Marks = append(s.totals.total.Marks, report.Mark{At: s.totals.total.Duration, Kind: "load", Detail: fmt.Sprintf("%vx", times)})
	if _, failed := s.totals.add(result, record); failed != nil {
		return failed
	}
	o.Steps = append(o.Steps, step)
	if err == nil {
		err = problem
	}
	if err != nil {
		return err
	}
	return m.controls(&o.Steps[len(o.Steps)-1])
}

// newStep converts the result of a load.
func newStep(times float64, r *bench.Result, record *local.Record) report.OverloadStep {
	seconds := max(r.Duration.Seconds(), 1e-9)
	s := report.OverloadStep{
		Times: times, Duration: r.Duration, Offered: float64(r.Offered) / seconds, Answered: r.Rate(),
		Calls: report.NewCounts(r.Counts), HeldBack: r.HeldBack, LLM: report.NewLLMCounts(r.LLM), ClientCPU: r.ClientCPU,
	}
	if r.Pacer != nil {
		s.Sent, s.LateP99, s.Missed = r.Pacer.KeptRate, r.Pacer.Lateness.P99, r.Pacer.Missed
	}
	if l, err := r.Overall(); err == nil && l.Count > 0 {
		s.P50, s.P99 = l.P50, l.P99
	}
	for _, op := range []bench.Op{bench.OpCheck, bench.OpReserve} {
		if l := r.ServiceTime(op); l != nil {
			s.SentP99 = max(s.SentP99, l.P99)
		}
		if l := r.Refusals(op); l != nil { // the worse of both
			s.RefusedP50, s.RefusedP99 = max(s.RefusedP50, l.P50), max(s.RefusedP99, l.P99)
		}
	}
	if record != nil {
		s.ServersCPU = record.CPU()
	}
	return s
}

// A target is watched after a load under half of its capacity.
const (
	watchShare    = 0.5
	watchTime     = 2 * time.Second
	watchInterval = 50 * time.Millisecond
	// normalIntervals is how many intervals in a row must be normal, so that one of them is
	// not a coincidence.
	normalIntervals = 6
)

// watch is a load that begins when another one ends, while that one's calls may still be
// in flight.
type watch struct {
	work   sync.WaitGroup
	result *bench.Result
	err    error
}

// watchAfter watches the target after a load that begins now.
func (m *overloadRun) watchAfter(l *load) (*watch, error) {
	after, err := m.load(watchShare*m.target.overload.Capacity, 0, watchTime)
	if err != nil {
		return nil, err
	}
	after.interval, after.silent = watchInterval, true
	w := &watch{}
	begin := time.Now().Add(l.warmup + l.duration)
	if err := m.target.begin(m.runner, time.Now()); err != nil {
		return nil, err
	}
	w.work.Go(func() {
		if w.err = m.pause(time.Until(begin)); w.err == nil {
			w.result, _, w.err = m.measure(m.ctx, m.target, after)
		}
	})
	return w, nil
}

// wait returns what was watched; nothing if w is nil.
func (w *watch) wait() (*bench.Result, error) {
	if w == nil {
		return nil, nil //nolint:nilnil // nothing was watched
	}
	w.work.Wait()
	return w.result, w.err
}

// recovery returns the time until the target was back to normal: from then on, at most 1 %
// of the calls are refused, fail or are dropped, and p99 is at most twice that of the first
// step, or 50 ms.
func recovery(r *bench.Result, steps []report.OverloadStep) time.Duration {
	slowest := 50 * time.Millisecond
	if len(steps) > 0 {
		slowest = max(slowest, 2*steps[0].P99)
	}
	normal := 0
	for i := range r.Series {
		iv := &r.Series[i]
		if bad := iv.Refused + iv.Failed + iv.Dropped; bad*100 > iv.Offered || iv.P99 > slowest || iv.Achieved() == 0 {
			normal = 0
			continue
		}
		if normal++; normal == normalIntervals {
			return r.Series[i+1-normal].At
		}
	}
	return report.NeverNormal
}

// arrivalsAt returns a schedule.
func (r *runner) arrivalsAt(rate float64, calls *workload.Workload) (bench.Arrivals, error) {
	if r.o.Arrivals == Constant {
		return bench.Constant(rate)
	}
	return bench.Poisson(rate, calls.Spec().Seed)
}

func formatRate(f float64) string { return amount.Group(int64(f + 0.5)) }
