// SPDX-License-Identifier: Apache-2.0

// Package replay sends an hour of recorded LLM calls through a running node and
// compares every answer with that of an oracle, a second, simple limiter.
//
// Time is virtual: the node's clock is set to the time of each event, so the hour
// takes seconds.
package replay

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"time"

	"github.com/bucketring/bucketring/internal/trace"
	"github.com/bucketring/bucketring/rpc/client"
)

// users are those of the trace, under twenty organisations.
var users = trace.Users{Seed: 1, Count: 50, Orgs: 20}

const (
	model     = "llama-3-70b"
	maxOutput = 1024 // requested by every call; no output in the trace is longer
	// The model starts to answer after a second and generates 25 tokens per second,
	// so the longest answers exceed a lease of 30 s unless they report progress.
	timeToFirstToken = time.Second
	timePerToken     = 40 * time.Millisecond
	progressInterval = 10 * time.Second
)

// replayedCall is the state of one call of the trace.
type replayedCall struct {
	call        trace.Call
	user        trace.User
	output      int64 // tokens that the model generates, at most those granted
	started     time.Duration
	reservation *client.Reservation
}

// event is the next request of a call.
type event struct {
	at   time.Duration
	row  int // orders events at the same time
	call *replayedCall
}

type queue []event

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q queue) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[i].at, q[j].at), cmp.Compare(q[i].row, q[j].row)) < 0
}
func (q *queue) Push(x any) { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

// entry is a request to the node and its answer: reserve and reserved, or usage and
// settled.
type entry struct {
	at       time.Duration
	key, id  string
	reserve  *client.Estimate
	reserved *client.Reservation
	usage    *client.Usage
	final    bool
	settled  *client.Settlement
}

// replay sends the calls to the node of c. Each call reserves its context and
// maxOutput tokens, runs as long as its output takes, reports progress, and settles
// the generated tokens. Denied calls are not retried.
func replay(ctx context.Context, c *client.Client, clock *clock, calls []trace.Call) ([]entry, error) {
	var events queue
	for _, call := range calls {
		events = append(events, event{call.Offset, call.Row, &replayedCall{call: call, user: users.Of(call.Row)}})
	}
	heap.Init(&events)
	var done []entry
	for len(events) > 0 {
		e := heap.Pop(&events).(event)
		clock.set(e.at)
		entry, next, err := e.call.step(ctx, c, e.at)
		if err != nil {
			return nil, fmt.Errorf("row %d: %w", e.row, err)
		}
		entry.at = e.at
		done = append(done, entry)
		if next > 0 {
			heap.Push(&events, event{next, e.row, e.call})
		}
	}
	return done, nil
}

// step sends the request that is due at a time. It returns when the next one is
// due, or 0 if there is none.
func (t *replayedCall) step(ctx context.Context, c *client.Client, at time.Duration) (done entry, next time.Duration, err error) {
	if t.reservation == nil {
		return t.reserve(ctx, c, at)
	}
	end := t.started + timeToFirstToken + time.Duration(t.output)*timePerToken
	usage := client.Usage{OutputTokens: new(t.output)}
	report := t.reservation.Settle
	if at < end {
		usage.OutputTokens = new(max(1, int64((at-t.started-timeToFirstToken)/timePerToken)))
		report = t.reservation.Progress
		next = min(at+progressInterval, end)
	}
	s, err := report(ctx, usage)
	return entry{key: t.user.Key, id: t.reservation.RequestID, usage: &usage, final: at >= end, settled: &s}, next, err
}

func (t *replayedCall) reserve(ctx context.Context, c *client.Client, at time.Duration) (done entry, next time.Duration, err error) {
	estimate := client.Estimate{
		Key: t.user.Key, Tier: t.user.Tier, Model: model,
		InputTokens: t.call.ContextTokens, MaxOutputTokens: new(int64(maxOutput)),
		RequestID: fmt.Sprintf("row-%d", t.call.Row),
	}
	r, err := c.Reserve(ctx, estimate)
	if err != nil {
		return entry{}, 0, err
	}
	if r.Allowed() {
		t.reservation, t.started, t.output = r, at, min(t.call.GeneratedTokens, r.Granted())
		next = min(at+progressInterval, at+timeToFirstToken+time.Duration(t.output)*timePerToken)
	}
	return entry{key: t.user.Key, id: estimate.RequestID, reserve: &estimate, reserved: r}, next, nil
}
