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

// errNoOutcome reports a target that returned neither an error nor an outcome.
var errNoOutcome = errors.New("the target returned no outcome")

// runState is shared by the parts of a run.
type runState struct {
	target     Target
	onEvent    func(Event)
	timeout    time.Duration
	start      time.Time       // when the run started
	requestCtx context.Context // parent of all request contexts; ends when the run stops waiting
	recorder   *recorder
	scheduler  *scheduler
	fail       context.CancelCauseFunc // ends the run with an error

	deadlineCaches [8]deadlineCache

	senders  atomic.Int64
	inFlight atomic.Int64 // requests
}

func (r *runState) now() time.Duration { return time.Since(r.start) }

// sender sends one request after the other. It is used by one goroutine.
type sender struct {
	*runState
	shard     *shard
	deadlines *deadlineCache
	// retryAfter is when to try again after the last call, if that was refused; otherwise
	// it is 0.
	retryAfter time.Duration
	// refusedAt is when the last call was refused; 0 if it was not. It is nearly now for a
	// sender that has not waited since.
	refusedAt time.Duration
}

func (r *runState) newSender() *sender {
	n := int(r.senders.Add(1) - 1)
	return &sender{runState: r, shard: r.recorder.shard(n), deadlines: &r.deadlineCaches[n%len(r.deadlineCaches)]}
}

// deadlineCache makes the contexts of requests. All requests that are sent within
// 2 % of the timeout share one context, because its timer costs more than
// everything else that the harness does for a request.
type deadlineCache struct {
	current atomic.Pointer[sharedContext]
	mu      sync.Mutex // held while current is replaced

	_ [64]byte // keeps the next cache on another cache line
}

type sharedContext struct {
	context.Context
	renewAt time.Duration
	// cancel is never called: requests may use the context until its deadline. The end of
	// runState.requestCtx ends it.
	cancel context.CancelFunc
}

// deadline returns a context for a request that is sent now. It ends with the
// timeout or with the run.
func (a *sender) deadline(now time.Duration) context.Context {
	d := a.deadlines
	if c := d.current.Load(); c != nil && now < c.renewAt {
		return c.Context
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.current.Load()
	if c == nil || now >= c.renewAt {
		spare := a.timeout / 50
		c = &sharedContext{renewAt: now + spare}
		c.Context, c.cancel = context.WithDeadline(a.requestCtx, a.start.Add(now+a.timeout+spare))
		d.current.Store(c)
	}
	return c.Context
}

// sendFirst sends the first request of a call now. It returns the LLM call if it
// got a reservation, and nil otherwise.
func (a *sender) sendFirst(c *Call, due, now time.Duration) *llmCall {
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
	a.retryAfter, a.refusedAt = 0, 0
	switch {
	case q.err != nil:
		q.outcome = Failed
		if r := refusal(q.err); r != nil {
			q.outcome, q.heldBack, answer.Outcome = Refused, r.HeldBack, Refused
			a.retryAfter, a.refusedAt = max(r.RetryAfter, minBackoff), q.done
		} else if errors.Is(q.err, ErrNoReservations) {
			a.fail(fmt.Errorf("bench: the workload has LLM calls: %w", q.err))
		}
	case answer.Outcome == 0:
		q.outcome, q.err = Failed, errNoOutcome
	default:
		q.outcome = answer.Outcome
	}
	q.route = answer.Route
	a.recorder.recordAnswer(a.shard, &q)
	if a.onEvent != nil {
		a.onEvent(Event{Op: q.op, Call: c, Due: q.due, Sent: q.sent, Done: q.done, Answer: answer, Err: q.err})
	}
	if !c.LLM || (q.outcome != Allowed && q.outcome != Degraded) {
		return nil
	}
	a.recorder.countLLM(a.shard, due, LLMCounts{Held: 1})
	return newLLMCall(c, due, q.done, &answer)
}

// minBackoff is the least time that a caller of a closed loop waits after a refusal.
const minBackoff = 5 * time.Millisecond

// sendNext sends the next request of an LLM call. It returns false after the last
// one.
func (a *sender) sendNext(h *llmCall) bool {
	u, due := h.usage, h.nextDue
	q := sample{op: OpProgress, outcome: Allowed, due: due, sent: a.now()}
	if u.Final {
		q.op = OpSettle
	}
	answer, err := a.target.Settle(a.deadline(q.sent), u)
	q.done = a.now()
	q.err, q.route = err, answer.Route
	var l LLMCounts
	switch {
	case q.err != nil && u.Final:
		q.outcome, l.SettlesFailed = Failed, 1
	case q.err != nil:
		q.outcome, l.ReportsFailed = Failed, 1
	case u.Final:
		l.Settled = 1
	default:
		l.Reported = 1
	}
	if h.cutShort {
		l.CutShort = 1
	}
	a.recorder.recordAnswer(a.shard, &q)
	a.recorder.countLLM(a.shard, h.due, l)
	if a.onEvent != nil {
		a.onEvent(Event{Op: q.op, Call: h.call, Due: q.due, Sent: q.sent, Done: q.done, Answer: answer, Usage: u, Err: q.err})
	}
	if u.Final {
		return false
	}
	h.advance()
	return true
}
