// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"sync"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// interfaceName is that of the metric of rejections.
const interfaceName = server.RESPInterface

// batch is the calls of a pipeline that are decided together. It is pooled: a connection has
// none while it has no calls.
type batch struct {
	slots    []slot
	calls    []call.Call
	requests requests
	inUse    bool  // a call that was forwarded or has waited may be withdrawn later, by its request
	admitted int64 // what Admission.Admit needs; the batch has begun if there are slots

	// checked has a bit for the partitions of checks. Within a batch a check may be decided
	// after a later call of another kind, so that such a call of the same partition begins
	// another batch.
	checked uint64
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// slot is a command of a batch: a call, or why it is none.
type slot struct {
	problem *problem // nil: the next call
}

// add adds the call of a command to the batch.
func (c *conn) add(command *command, args []string) {
	if c.batch != nil && len(c.batch.slots) == server.MaxItems {
		c.decide()
	}
	if c.batch == nil {
		c.batch = batches.Get().(*batch)
	}
	b := c.batch
	if len(b.slots) == 0 {
		c.beginBatch()
	}
	if p := c.authorized(); p != nil {
		b.slots = append(b.slots, slot{p})
		return
	}
	if command.isNew {
		if err := c.server.options.Admission.Admit(c.ctx.Context, server.FromRESP, b.admitted); err != nil {
			b.slots = append(b.slots, slot{c.describe(err)})
			return
		}
	}
	one, p := command.message(&b.requests, args)
	if p != nil {
		b.slots = append(b.slots, slot{p})
		return
	}
	bit := uint64(1) << (one.Partition % 64)
	if one.Kind != call.Check && one.Kind != call.Count && b.checked&bit != 0 {
		c.decideCalls(true)
		c.beginBatch()
	}
	if one.Kind == call.Check {
		b.checked |= bit
	}
	b.slots, b.calls = append(b.slots, slot{}), append(b.calls, one)
	if c.limited != nil && len(b.calls) > 1 {
		c.limited.SetCalls(int64(len(b.calls)))
	}
}

// beginBatch counts the batch as in progress, until endBatch.
func (c *conn) beginBatch() {
	c.batch.admitted = c.server.options.Admission.BeginBatch()
	c.inProgress = true
}

func (c *conn) endBatch() {
	if c.inProgress {
		c.inProgress = false
		c.server.options.Admission.End()
	}
}

// decide decides the batch, and writes its answers.
func (c *conn) decide() { c.decideCalls(false) }

// decideCalls is decide. With another call made already, the memory of the requests stays.
func (c *conn) decideCalls(another bool) {
	b := c.batch
	if b == nil {
		return
	}
	var results *server.Results
	if len(b.calls) > 0 {
		if c.limited != nil {
			c.limited.SetCalls(int64(len(b.calls)))
		}
		server.Authorize(c.login.session.Grant(), b.calls)
		c.watch.begin()
		results = c.server.options.Decider.Do(c.ctx, b.calls)
		b.inUse = c.watch.end() || b.inUse
	}
	c.endBatch()
	now := c.server.options.Now()
	next := 0
	for i := range b.slots {
		if p := b.slots[i].problem; p != nil {
			c.problem(p)
		} else {
			c.result(&b.calls[next], results.View(next), now)
			next++
		}
		if len(c.out) >= flushAt {
			c.flush()
		}
	}
	if results != nil {
		results.Release()
	}
	clear(b.calls)
	clear(b.slots)
	b.slots, b.calls, b.checked = b.slots[:0], b.calls[:0], 0
	if another {
		return
	}
	if b.inUse {
		b.requests, b.inUse = requests{}, false
	}
	b.requests.reset()
	c.batch = nil
	batches.Put(b)
}

// result writes the answer to a call.
func (c *conn) result(of *call.Call, r *pb.Result, now time.Time) {
	switch answer := r.GetResult().(type) {
	case *pb.Result_Decision:
		q := asked{maxWait: of.MaxWait()}
		if of.Kind == call.Check {
			q.model = of.Check().GetModel()
		} else {
			q.model = of.Reserve().GetModel()
		}
		c.out = appendDecision(c.out, c.resp3, answer.Decision, q, now)
	case *pb.Result_Settlement:
		c.out = appendSettlement(c.out, c.resp3, answer.Settlement, now)
	case *pb.Result_Limits:
		c.out = appendPeek(c.out, c.resp3, answer.Limits, now)
	case *pb.Result_Counted:
		c.out = appendThrottle(c.out, of.Count().GetThrottle().GetCapacity(), answer.Counted)
	case *pb.Result_Error:
		c.problem(c.problemOf(answer.Error))
	default:
		c.server.options.Logger.Error("resp call has no answer", "call", of.Kind.String())
		c.problem(internalProblem)
	}
}

// describe returns the problem of a call that ended with an error.
func (c *conn) describe(err error) *problem { return c.problemOf(server.Describe(err)) }

func (c *conn) problemOf(e *pb.Error) *problem {
	if p := problemOf(e); p != nil {
		return p
	}
	c.server.options.Logger.Error("resp call failed", "error", e.GetMessage())
	return internalProblem
}
