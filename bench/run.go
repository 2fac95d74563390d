// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"time"
)

// gracePeriod is how long a run waits beyond the timeout for requests that ignore
// their context.
const gracePeriod = time.Second

// Run sends the calls of a workload to a target and measures the answers. It
// returns when all calls have ended, or when it no longer waits for them.
//
// Invalid options are an error without a result. Every other error comes with the
// result so far: when ctx is done, Run sends no more calls, settles those that are
// running, and returns the cause; it does the same when the workload has LLM calls
// and the target returns [ErrNoReservations]. The end of ctx does not cancel
// requests in flight, since they would count as failures.
//
// Run does not wait for a request that ignores its context: the goroutine ends,
// and OnEvent is called, when the target returns.
func Run(ctx context.Context, o Options) (*Result, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	calls, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()

	p := newPlanner(&o)
	var background sync.WaitGroup
	background.Go(p.run)
	<-p.ready
	r := &runState{
		target: o.Target, onEvent: o.OnEvent, timeout: o.Timeout,
		start: time.Now(), requestCtx: calls, recorder: newRecorder(&o), fail: fail,
	}
	l := newLoop(r, &o, p)
	r.scheduler = newScheduler(r.start, l.resume)
	background.Go(r.scheduler.run)
	c := newCollector(r, o.OnInterval)
	background.Go(c.run)

	ended := l.send(ctx)
	c.sendingDone()
	p.close()
	if ctx.Err() != nil {
		r.recorder.window.truncate(r.now())
		ended = false
	}
	if !ended {
		c.finish()
	}
	unfinished := r.drain(ctx, l.idle(), o.DrainTimeout, abandon)
	if ended {
		// The schedule was shorter than the run time: the measured part ends with its
		// last answer.
		r.recorder.window.truncate(r.recorder.lastSeen() + 1)
		c.finish()
	}
	close(r.scheduler.stop)
	l.abort()
	background.Wait()
	l.stop(unfinished == 0)
	result, err := r.result(&o, c)
	if err != nil {
		return nil, err
	}
	result.Unfinished = unfinished
	if err := l.addTo(result); err != nil {
		return nil, err
	}
	return result, context.Cause(ctx)
}

// drain waits until all calls have ended, first as planned for at most patience,
// then by settling them. It returns how many did not end.
func (r *runState) drain(ctx context.Context, done <-chan struct{}, patience time.Duration, abandon func()) int64 {
	wait := func(d time.Duration, cancelled <-chan struct{}) bool {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-done:
			return true
		case <-timer.C:
		case <-cancelled:
		}
		return false
	}
	if wait(max(patience, 0), ctx.Done()) {
		return 0
	}
	r.scheduler.settleAll()
	for left := r.unfinished(); ; {
		if wait(r.timeout+r.timeout/50+gracePeriod, nil) {
			return 0
		}
		before := left
		if left = r.unfinished(); left >= before {
			break // no progress
		}
	}
	abandon()
	if wait(gracePeriod, nil) {
		return 0
	}
	return max(r.unfinished(), 1)
}

// unfinished returns the number of calls that have not ended.
func (r *runState) unfinished() int64 { return r.inFlight.Load() + int64(r.scheduler.len()) }

// result summarizes what was recorded.
func (r *runState) result(o *Options, c *collector) (*Result, error) {
	t, err := r.recorder.total()
	if err != nil {
		return nil, err
	}
	w := &r.recorder.window
	result := &Result{
		Target: o.Target.Name(), OpenLoop: o.open(), Callers: o.Callers, Started: r.start,
		Warmup: o.Warmup, Duration: max(0, w.endTime()-w.from),
		After: t.after, Completed: t.completed, HeldBack: t.heldBack, LLM: t.llm,
		Latencies: t.latencies, Series: series(w, c.points, t.series), Errors: t.errs,
		ClientCPU: max(0, c.cpuEnd-c.cpuBegin), // a process that did not run may have read the begin late
	}
	result.Counts = t.after
	for i, n := range t.series {
		if i >= w.warmupIntervals {
			result.add(n)
		}
	}
	return result, nil
}
