// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// errNoOutcome: a target gave neither an error nor an outcome.
var errNoOutcome = errors.New("the target named no outcome")

// running is what the parts of a run share.
type running struct {
	target   Target
	sink     func(Event)
	timeout  time.Duration
	base     time.Time       // when the run started
	calls    context.Context // of all questions; ends when the run stops waiting
	recorder *recorder
	holder   *holder
	fail     context.CancelCauseFunc // ends the run

	deadlines [8]deadlines

	askers   atomic.Int64
	underWay atomic.Int64 // questions
}

func (r *running) now() time.Duration { return time.Since(r.base) }

// asker asks one question after the other. It belongs to one goroutine.
type asker struct {
	*running
	shard     *shard
	deadlines *deadlines
}

func (r *running) newAsker() *asker {
	n := int(r.askers.Add(1) - 1)
	return &asker{running: r, shard: r.recorder.shard(n), deadlines: &r.deadlines[n%len(r.deadlines)]}
}

// deadlines makes the contexts of questions. All that are sent within 2 % of
// the timeout share one: its timer costs more than all the rest that the harness
// does for a question.
type deadlines struct {
	mu    sync.Mutex
	ctx   context.Context
	renew time.Duration
	// cancel of ctx is not called: questions may be using it until its time. The
	// run ends it with running.calls.
	cancel context.CancelFunc

	_ [64]byte // the next one is another cache line's
}

// deadline returns a context for a question that is sent now. It is cancelled
// by its time, or with the run.
func (a *asker) deadline(now time.Duration) context.Context {
	d := a.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	if now >= d.renew || d.ctx == nil {
		spare := a.timeout / 50
		d.ctx, d.cancel = context.WithDeadline(a.calls, a.base.Add(now+a.timeout+spare))
		d.renew = now + spare
	}
	return d.ctx
}

// begin asks the first question of a call, now. It returns the LLM call that
// holds a reservation then, else nil.
func (a *asker) begin(c *Call, due, now time.Duration) *held {
	q := sample{op: OpCheck, due: due, sent: now}
	ctx := a.deadline(q.sent)
	var answer Answer
	if c.LLM {
		q.op = OpReserve
		answer, q.err = a.target.Reserve(ctx, c)
	} else {
		answer, q.err = a.target.Check(ctx, c)
	}
	q.done = a.now()
	switch {
	case q.err != nil:
		q.outcome = Failed
		if errors.Is(q.err, ErrNoReservations) {
			a.fail(fmt.Errorf("bench: the workload has LLM calls: %w", q.err))
		}
	case answer.Outcome == 0:
		q.outcome, q.err = Failed, errNoOutcome
	default:
		q.outcome = answer.Outcome
	}
	q.route = answer.Route
	a.recorder.answered(a.shard, &q)
	if a.sink != nil {
		a.sink(Event{Op: q.op, Call: c, Due: q.due, Sent: q.sent, Done: q.done, Answer: answer, Err: q.err})
	}
	if !c.LLM || (q.outcome != Allowed && q.outcome != Degraded) {
		return nil
	}
	a.recorder.held(a.shard, due, LLM{Held: 1})
	return newHeld(c, due, q.done, &answer)
}

// proceed asks the next question of an LLM call. It returns false after the
// last one.
func (a *asker) proceed(h *held) bool {
	u, due := h.usage, h.next
	q := sample{op: OpProgress, outcome: Allowed, due: due, sent: a.now()}
	if u.Final {
		q.op = OpSettle
	}
	answer, err := a.target.Settle(a.deadline(q.sent), u)
	q.done = a.now()
	q.err, q.route = err, answer.Route
	var l LLM
	switch {
	case q.err != nil && u.Final:
		q.outcome, l.Lost = Failed, 1
	case q.err != nil:
		q.outcome, l.ReportsFailed = Failed, 1
	case u.Final:
		l.Settled = 1
	default:
		l.Reported = 1
	}
	if h.cut {
		l.CutShort = 1
	}
	a.recorder.answered(a.shard, &q)
	a.recorder.held(a.shard, h.due, l)
	if a.sink != nil {
		a.sink(Event{Op: q.op, Call: h.call, Due: q.due, Sent: q.sent, Done: q.done, Answer: answer, Usage: u, Err: q.err})
	}
	if u.Final {
		return false
	}
	h.advance()
	return true
}
