// SPDX-License-Identifier: Apache-2.0

package client

import (
	"math"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Zero is a count of exactly 0 in the fields where the number 0 means not
// given.
const Zero int64 = math.MinInt64

// Call is a known cost, for [Client.Check].
type Call struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string

	Requests     int64 // 0: 1
	InputTokens  int64
	OutputTokens int64
	Costs        map[string]int64 // in the operator's own dimensions

	// RequestID makes the call idempotent for 30 seconds. "": the client makes one.
	RequestID string
}

func (c *Call) texts() texts { return texts{c.Key, c.Tier, c.Model, c.RequestID, c.Costs} }

func (c *Call) wire() *checkCall {
	w := &checkCall{}
	r := &w.request
	r.Key, r.Tier, r.Model, r.RequestId = c.Key, c.Tier, c.Model, c.RequestID
	r.Requests = optional(c.Requests)
	r.InputTokens, r.OutputTokens = c.InputTokens, c.OutputTokens
	r.Costs = c.Costs
	w.check.Check = r
	w.item.Call = &w.check
	return w
}

// Estimate is the most that a call is expected to cost, for [Client.Reserve].
type Estimate struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string

	Requests        int64 // 0: 1
	InputTokens     int64
	MaxOutputTokens int64 // of one choice; 0: the policy's default for the model
	// MinOutputTokens is the least output worth running, where the policy lets
	// a grant shrink. 0: max(256, MaxOutputTokens/8).
	MinOutputTokens int64
	N               int64            // choices; 0: 1
	Costs           map[string]int64 // in the operator's own dimensions

	// TTL is the lease, in whole seconds, rounded up. Progress renews it. 0: 30 s.
	TTL time.Duration

	// RequestID makes the call idempotent until 10 minutes after the
	// reservation has ended. "": the client makes one.
	RequestID string
}

func (e *Estimate) texts() texts { return texts{e.Key, e.Tier, e.Model, e.RequestID, e.Costs} }

func (e *Estimate) wire() *reserveCall {
	w := &reserveCall{}
	r := &w.request
	r.Key, r.Tier, r.Model, r.RequestId = e.Key, e.Tier, e.Model, e.RequestID
	r.Requests = optional(e.Requests)
	r.InputTokens = e.InputTokens
	r.MaxOutputTokens, r.MinOutputTokens = optional(e.MaxOutputTokens), optional(e.MinOutputTokens)
	r.N = optional(e.N)
	r.Costs = e.Costs
	r.TtlSeconds = optional(wholeSeconds(e.TTL))
	w.reserve.Reserve = r
	w.item.Call = &w.reserve
	return w
}

// Usage is what a reserved call has really used so far. Numbers are cumulative,
// so that a usage report may be repeated.
type Usage struct {
	InputTokens       int64 // cached ones included; 0: the reserved estimate
	CachedInputTokens int64 // a part of InputTokens
	OutputTokens      int64 // over all choices; 0: the last progress
	// Costs in the operator's own dimensions. A dimension that is not there
	// keeps what is charged.
	Costs map[string]int64
}

func (u *Usage) wire(key, requestID string, final bool) *settleCall {
	w := &settleCall{}
	r := &w.request
	r.Key, r.RequestId = key, requestID
	r.InputTokens, r.CachedInputTokens = optional(u.InputTokens), optional(u.CachedInputTokens)
	r.OutputTokens = optional(u.OutputTokens)
	r.Costs = u.Costs
	r.Final = new(final)
	w.settle.Settle = r
	w.item.Call = &w.settle
	return w
}

// Query names the limits that [Client.Peek] looks at.
type Query struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string
}

func (q *Query) texts() texts { return texts{q.Key, q.Tier, q.Model, "", nil} }

func (q *Query) wire() *peekCall {
	w := &peekCall{}
	w.request.Key, w.request.Tier, w.request.Model = q.Key, q.Tier, q.Model
	w.peek.Peek = &w.request
	w.item.Call = &w.peek
	return w
}

func cancelWire(key, requestID string) *cancelCall {
	w := &cancelCall{}
	w.request.Key, w.request.RequestId = key, requestID
	w.cancel.Cancel = &w.request
	w.item.Call = &w.cancel
	return w
}

// A call on its way is one piece of memory: the request, what it is wrapped in
// when it goes with a batch, and its answer.
type (
	checkCall struct {
		decisionCall
		request pb.CheckRequest
		check   pb.Item_Check
	}
	reserveCall struct {
		decisionCall
		request pb.ReserveRequest
		reserve pb.Item_Reserve
	}
	settleCall struct {
		settlementCall
		request pb.SettleRequest
		settle  pb.Item_Settle
	}
	cancelCall struct {
		settlementCall
		request pb.CancelRequest
		cancel  pb.Item_Cancel
	}
	peekCall struct {
		stateCall
		request pb.PeekRequest
		peek    pb.Item_Peek
	}
)

// By the kind of the answer.
type (
	decisionCall struct {
		envelope
		answer  Decision
		granted int64
	}
	settlementCall struct {
		envelope
		answer Settlement
	}
	stateCall struct {
		envelope
		answer State
	}
)

// envelope is what a batch needs beside the request.
type envelope struct {
	item    pb.Item
	share   deadline
	hints   hints
	outcome outcome // of the item
	lost    attempts
}

func (e *envelope) wrapping() *envelope { return e }

// optional returns n as the wire has it: absent for 0, and 0 for Zero.
func optional(n int64) *int64 {
	switch n {
	case 0:
		return nil
	case Zero:
		return new(int64)
	}
	return new(n)
}

func wholeSeconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return s
}
