// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"time"
)

// grace is how long a run waits beyond the timeout for questions that don't
// come back.
const grace = time.Second

// Run sends the calls of a workload to a target and measures the answers. It
// returns when all calls have ended or can't be waited for any longer.
//
// When ctx is done it sends no more calls, settles those that run, and returns
// the result so far with the cause. So does a run that can't go on, such as one
// of LLM calls on a target without reservations. Questions that are under way
// are not cancelled by ctx: they would be counted as failures. Without a result,
// the error says which of the options is wrong.
//
// A question that doesn't end with its context is left behind: its goroutine,
// and its event, come when the target returns.
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
	r := &running{
		target: o.Target, sink: o.Sink, timeout: o.Timeout,
		base: time.Now(), calls: calls, recorder: newRecorder(&o), fail: fail,
	}
	l := newLoad(r, &o, p)
	r.holder = newHolder(r.base, l.proceed)
	background.Go(r.holder.run)
	c := newCollector(r, o.Progress)
	background.Go(c.collect)

	ended := l.send(ctx)
	c.sent()
	p.close()
	if ctx.Err() != nil {
		r.recorder.window.endBy(r.now())
		ended = false
	}
	if !ended {
		c.finish()
	}
	unfinished := r.drain(ctx, l.done(), o.Drain, abandon)
	if ended {
		// The schedule was shorter than the time: it lasted until its last answer.
		r.recorder.window.endBy(r.recorder.lastSeen() + 1)
		c.finish()
	}
	close(r.holder.stop)
	l.quit()
	background.Wait()
	l.close(unfinished == 0)
	result, err := r.result(&o, c)
	if err != nil {
		return nil, err
	}
	result.Unfinished = unfinished
	if err := l.describe(result); err != nil {
		return nil, err
	}
	return result, context.Cause(ctx)
}

// drain waits until all calls have ended: as planned for the time that they are
// given, then by settling them. It returns how many did not end.
func (r *running) drain(ctx context.Context, done <-chan struct{}, patience time.Duration, abandon func()) int64 {
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
	r.holder.end()
	for left := r.left(); ; {
		if wait(r.timeout+r.timeout/50+grace, nil) {
			return 0
		}
		before := left
		if left = r.left(); left >= before {
			break // nothing moves any longer
		}
	}
	abandon()
	if wait(grace, nil) {
		return 0
	}
	return max(r.left(), 1)
}

// left is the number of calls that have no end yet.
func (r *running) left() int64 { return r.underWay.Load() + int64(r.holder.len()) }

// result describes what was recorded.
func (r *running) result(o *Options, c *collector) (*Result, error) {
	t, err := r.recorder.total()
	if err != nil {
		return nil, err
	}
	w := &r.recorder.window
	result := &Result{
		Target: o.Target.Name(), OpenLoop: o.open(), Callers: o.Callers, Started: r.base,
		Warmup: o.Warmup, Duration: max(0, w.until()-w.from),
		After: t.after, InTime: t.inTime, LLM: t.llm,
		Latencies: t.latencies, Series: series(w, c.points, t.series), Errors: t.errs,
		ClientCPU: c.cpuEnd - c.cpuBegin,
	}
	result.Counts = t.after
	for slot, n := range t.series {
		if slot >= w.warm {
			result.add(n)
		}
	}
	return result, nil
}
