// SPDX-License-Identifier: Apache-2.0

package client

import (
	"time"

	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Call is a call with a known cost, for [Client.Check].
type Call struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string

	Requests     *int64 // nil: 1
	InputTokens  int64
	OutputTokens int64
	Costs        map[string]int64 // in the operator's own dimensions
	ServiceTier  string           // that the model gave; "": the normal price

	// MaxWait is how long the call may wait, if a limit denies it, until it fits: at most
	// [MaxMaxWait]. Nil: as long as the policy lets calls wait at that limit, which is the bound
	// in any case. 0: it does not wait. See [Client.Check].
	MaxWait *time.Duration
	// Priority is the class of the call. "": the default of the tier.
	Priority Priority

	// RequestID makes the call idempotent for 30 seconds. "": the client makes one.
	RequestID string
}

func (c *Call) fields() callFields {
	return callFields{c.Key, c.Tier, c.Model, c.RequestID, c.Costs}
}

func (c *Call) wire() *checkCall {
	w := &checkCall{}
	r := &w.request
	r.Key, r.Tier, r.Model, r.RequestId = c.Key, c.Tier, c.Model, c.RequestID
	r.Requests = c.Requests
	r.InputTokens, r.OutputTokens = c.InputTokens, c.OutputTokens
	r.Costs, r.ServiceTier = c.Costs, c.ServiceTier
	r.MaxWait, r.Priority = wireWait(c.MaxWait), c.Priority.wire()
	w.check.Check = r
	w.item.Call = &w.check
	return w
}

// Estimate is the most that a call is expected to cost, for [Client.Reserve].
type Estimate struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string

	Requests    *int64 // nil: 1
	InputTokens int64
	// EstimatedInput says that InputTokens is an estimate. Where it does not fit the
	// whole capacity of a limit, the part that fits is reserved, instead of a denial with
	// the reason [ExceedsCapacity]. What the call uses beyond that is charged in full: the
	// debt that it leaves is not bounded by the capacity.
	EstimatedInput bool
	// KnownInputTokens is the part of InputTokens that is not an estimate, such as token
	// ids. A call for which that alone does not fit is denied. Only with EstimatedInput.
	KnownInputTokens int64
	// MaxOutputTokens is per choice. Nil: the policy's default for the model. 0: the
	// call generates no output, such as an embedding.
	MaxOutputTokens *int64
	// MinOutputTokens is the least output worth running, where the policy allows a
	// smaller grant. 0: max(256, MaxOutputTokens/8).
	MinOutputTokens int64
	N               int64            // choices; 0: 1
	Costs           map[string]int64 // in the operator's own dimensions
	// ServiceTier is the one that the model is asked for. A dearer one raises what is
	// held; a cheaper one does not lower it, because it may not be given.
	ServiceTier string

	// TTL is the lease, rounded up to whole seconds. Progress renews it. 0: 30 s.
	TTL time.Duration

	// MaxWait and Priority are as those of a [Call].
	MaxWait  *time.Duration
	Priority Priority

	// RequestID makes the call idempotent until 10 minutes after the reservation
	// has ended. "": the client makes one.
	RequestID string
	// Once says that RequestID is new, and that no call will be sent again with it, so that
	// the call may be answered from memory like one without RequestID.
	Once bool
}

func (e *Estimate) fields() callFields {
	return callFields{e.Key, e.Tier, e.Model, e.RequestID, e.Costs}
}

func (e *Estimate) wire() *reserveCall {
	w := &reserveCall{}
	e.fill(&w.request)
	w.reserve.Reserve = &w.request
	w.item.Call = &w.reserve
	return w
}

// fill makes r the request. It shares the memory of e.
func (e *Estimate) fill(r *pb.ReserveRequest) {
	r.Key, r.Tier, r.Model, r.RequestId = e.Key, e.Tier, e.Model, e.RequestID
	r.Requests = e.Requests
	r.InputTokens, r.EstimatedInput, r.KnownInputTokens = e.InputTokens, e.EstimatedInput, e.KnownInputTokens
	r.MaxOutputTokens, r.MinOutputTokens = e.MaxOutputTokens, unlessZero(e.MinOutputTokens)
	r.N = unlessZero(e.N)
	r.Costs, r.ServiceTier = e.Costs, e.ServiceTier
	r.TtlSeconds = unlessZero(wholeSeconds(e.TTL))
	r.MaxWait, r.Priority = wireWait(e.MaxWait), e.Priority.wire()
}

// Usage is what a reserved call has used so far. Numbers are cumulative, so a
// report may be repeated.
type Usage struct {
	InputTokens       *int64 // including cached ones; nil: the reserved estimate
	CachedInputTokens int64  // a part of InputTokens
	OutputTokens      *int64 // of all choices; nil: as last reported by Progress
	// Parts of InputTokens that were written to a cache: for five minutes or an unknown
	// time, and for an hour. They do not overlap with each other or CachedInputTokens.
	CacheWriteTokens, CacheWrite1hTokens int64
	// Images and Searches are counts that the policy may charge fees for.
	Images, Searches int64
	// ServiceTier is the one that the model gave. "": that of the estimate, without a
	// discount.
	ServiceTier string
	// Rejected is true if the model refused the call, so that no fee is due for the
	// request. Limits on requests keep their charge.
	Rejected bool
	// Costs in the operator's own dimensions. A dimension that is absent keeps its
	// charge.
	Costs map[string]int64
}

func (u *Usage) wire(key, requestID string, final bool) *settleCall {
	w := &settleCall{}
	r := &w.request
	r.Key, r.RequestId = key, requestID
	r.InputTokens, r.CachedInputTokens, r.OutputTokens = u.InputTokens, unlessZero(u.CachedInputTokens), u.OutputTokens
	r.CacheWriteTokens, r.CacheWrite_1HTokens = unlessZero(u.CacheWriteTokens), unlessZero(u.CacheWrite1hTokens)
	r.Images, r.Searches, r.ServiceTier = unlessZero(u.Images), unlessZero(u.Searches), u.ServiceTier
	if u.Rejected {
		r.Rejected = new(true)
	}
	r.Costs = u.Costs
	r.Final = new(final)
	w.settle.Settle = r
	w.item.Call = &w.settle
	return w
}

// Query names the limits that [Client.Peek] returns.
type Query struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string
}

func (q *Query) fields() callFields { return callFields{q.Key, q.Tier, q.Model, "", nil} }

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

// Each call is one allocation, with the request, the item that wraps it in a batch,
// and the answer.
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

// The parts that depend on the kind of the answer.
type (
	decisionCall struct {
		envelope
		answer  Decision
		granted int64
		mayWait bool // the owner says that the denied call may wait
		batched bool // the answer came in a batch, so that mayWait counts
		// leasedFrom is when a reservation was made, or before. Zero: when it was first asked for.
		leasedFrom time.Time
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

// envelope is what a call in a batch has beside its request and answer.
type envelope struct {
	item    pb.Item
	ctx     link.DeadlineContext // of the current attempt
	hints   hints
	outcome outcome // of the item
	tried   attemptIDs

	takesSlice bool // a slice may be lent for the call: see askSlice
	lent       *pb.Slice
	lentWith   *pb.Decision // the decision with which lent came
}

func (e *envelope) wrapping() *envelope { return e }

// unlessZero returns nil for 0, which is how the wire omits a number.
func unlessZero(n int64) *int64 {
	if n == 0 {
		return nil
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
