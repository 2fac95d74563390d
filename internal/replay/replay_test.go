// SPDX-License-Identifier: Apache-2.0

// Package replay sends an hour of real LLM calls through a running node, and
// has every answer checked by a second, naive limiter.
//
// Time is virtual: the node's clock is set to the moment of each event, so
// that the hour has the arrival times of the trace and takes seconds.
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
	maxOutput = 1024 // what every caller asks for; nothing in the trace is longer
	// A model reads a prompt in a second and writes 25 tokens per second, so
	// the longest answers outlive a lease of 30 s unless they report progress.
	readPrompt   = time.Second
	perToken     = 40 * time.Millisecond
	reportsEvery = 10 * time.Second
)

// trip is one call of the trace on its way.
type trip struct {
	call        trace.Call
	user        trace.User
	output      int64 // what the model writes, within what was granted
	began       time.Duration
	reservation *client.Reservation
}

// event is something that a caller does.
type event struct {
	at   time.Duration
	row  int // ties are settled by row
	trip *trip
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

// entry is what a caller asked of the node, and what it answered. Of reserved
// and settled one is set.
type entry struct {
	at       time.Duration
	key, id  string
	reserve  *client.Estimate
	reserved *client.Reservation
	usage    *client.Usage
	final    bool
	settled  *client.Settlement
}

// replay sends the calls to the node behind c: each reserves its context and
// maxOutput tokens, runs for as long as its output takes, reports progress
// meanwhile, and settles what it generated. What is denied is not tried again.
func replay(ctx context.Context, c *client.Client, clock *clock, calls []trace.Call) ([]entry, error) {
	var events queue
	for _, call := range calls {
		events = append(events, event{call.Offset, call.Row, &trip{call: call, user: users.Of(call.Row)}})
	}
	heap.Init(&events)
	var done []entry
	for len(events) > 0 {
		e := heap.Pop(&events).(event)
		clock.set(e.at)
		entry, next, err := e.trip.step(ctx, c, e.at)
		if err != nil {
			return nil, fmt.Errorf("row %d: %w", e.row, err)
		}
		entry.at = e.at
		done = append(done, entry)
		if next > 0 {
			heap.Push(&events, event{next, e.row, e.trip})
		}
	}
	return done, nil
}

// step does what a trip does at that moment; next is when it does more, 0 if
// never.
func (t *trip) step(ctx context.Context, c *client.Client, at time.Duration) (done entry, next time.Duration, err error) {
	if t.reservation == nil {
		return t.reserve(ctx, c, at)
	}
	end := t.began + readPrompt + time.Duration(t.output)*perToken
	usage := client.Usage{OutputTokens: client.Int64(t.output)}
	report := t.reservation.Settle
	if at < end {
		usage.OutputTokens = client.Int64(max(1, int64((at-t.began-readPrompt)/perToken)))
		report = t.reservation.Progress
		next = min(at+reportsEvery, end)
	}
	s, err := report(ctx, usage)
	return entry{key: t.user.Key, id: t.reservation.RequestID, usage: &usage, final: at >= end, settled: &s}, next, err
}

func (t *trip) reserve(ctx context.Context, c *client.Client, at time.Duration) (done entry, next time.Duration, err error) {
	estimate := client.Estimate{
		Key: t.user.Key, Tier: t.user.Tier, Model: model,
		InputTokens: t.call.ContextTokens, MaxOutputTokens: client.Int64(maxOutput),
		RequestID: fmt.Sprintf("row-%d", t.call.Row),
	}
	r, err := c.Reserve(ctx, estimate)
	if err != nil {
		return entry{}, 0, err
	}
	if r.Allowed() {
		t.reservation, t.began, t.output = r, at, min(t.call.GeneratedTokens, r.Granted())
		next = min(at+reportsEvery, at+readPrompt+time.Duration(t.output)*perToken)
	}
	return entry{key: t.user.Key, id: estimate.RequestID, reserve: &estimate, reserved: r}, next, nil
}
