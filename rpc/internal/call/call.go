// SPDX-License-Identifier: Apache-2.0

// Package call has the type of every request in a node. Unary calls, items of batches
// and streams, counters of Envoy and the outbox all become a [Call].
package call

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Kind is what a call asks for.
type Kind uint8

// The kinds. An item without a request has the zero Kind.
const (
	Check Kind = 1 + iota
	Reserve
	Settle
	Cancel
	Peek
	Count
	// SliceReturn ends a slice at the owner of its key, which charges what was spent.
	SliceReturn
	// SliceRecall asks a member to return the slices of a key.
	SliceRecall
	// Admin is by an operator: the owner of the key shows or changes its state.
	Admin
)

// Kinds lists all kinds but the zero one.
var Kinds = [...]Kind{Check, Reserve, Settle, Cancel, Peek, Count, SliceReturn, SliceRecall, Admin}

var kindNames = [...]string{"none", "check", "reserve", "settle", "cancel", "peek", "count", "slice_return", "slice_recall", "admin"}

// String returns the name of the kind, as labels have it.
func (k Kind) String() string { return kindNames[k] }

// EndsReservation reports whether k is a settle or a cancel.
func (k Kind) EndsReservation() bool { return k == Settle || k == Cancel }

// IsNew reports whether k is charged once for each request id.
func (k Kind) IsNew() bool { return k == Check || k == Reserve || k == Count }

// Origin is where a call comes from. It determines how a call is handled if another
// member owns its key.
type Origin uint8

const (
	// API is a unary call. It is forwarded to the owner, and decided in fallback if
	// the owner cannot be reached.
	API Origin = iota
	// ClientStream is the stream of a client, which sends to the owner. If that is
	// another member, the answer is a redirect.
	ClientStream
	// MemberStream is like ClientStream, for a member. Only members may replay calls,
	// count hits and report terms.
	MemberStream
	// Outbox is the outbox of this member. Only the owner may decide such a call: it
	// is never decided in fallback.
	Outbox
)

// Streamed reports whether the sender is to be redirected to the owner.
func (o Origin) Streamed() bool { return o == ClientStream || o == MemberStream }

// Call is one request. [Of] and [FromItem] make it. The message in it belongs to the
// sender and is never changed.
type Call struct {
	Kind      Kind
	Origin    Origin
	Key       string
	Partition int // of Key
	// RequestID is the id of the call at the owner. If it is empty, the member that
	// forwards or decides the call makes one.
	RequestID string
	// Decider is the member that made the reservation in fallback or from a slice, for a
	// settle or cancel whose id names one. Otherwise it is empty.
	Decider string
	// Replay means that the call was admitted in fallback or has run. It is charged
	// even beyond its limits.
	Replay bool
	// Expired means that the deadline of the caller has passed.
	Expired bool
	// Attempt identifies one attempt of a check or a reserve. A cancel with an attempt
	// withdraws only that one. 0: none.
	Attempt uint64
	// Unanswered means that a member may have charged Attempt of a check or a reserve that was denied or
	// failed, and whose answer did not come. The router sets it.
	Unanswered bool
	// Asker numbers who has the stream that the call came by. 0: it came by another API of
	// this member.
	Asker uint32
	// TakesSlice says that the sender of a check, a reserve or a count would take a slice with its answer.
	TakesSlice bool
	// Withdrawn is the check of which a cancel withdraws an attempt. Nil: a reserve.
	Withdrawn *pb.CheckRequest
	// Term is the highest term of the partition that the sender knows of.
	Term uint64
	// Trace is the span that the call belongs to, see pb.Item. Empty: the call is not traced.
	Trace []byte
	// Err, if not nil, is why the call is rejected.
	Err error

	request request
}

// request is one of the request messages.
type request interface {
	proto.Message
	GetKey() string
}

var errNoRequest = &limiter.FieldError{Field: "call", Value: "none", Problem: "must be check, reserve, settle, cancel or peek"}

// Of returns the call of a request, such as a [pb.CheckRequest]. It panics if r is
// another message.
func Of(r proto.Message) Call {
	c := Call{}
	switch q := r.(type) {
	case *pb.CheckRequest:
		c = Call{Kind: Check, RequestID: q.GetRequestId(), request: q}
	case *pb.ReserveRequest:
		c = Call{Kind: Reserve, RequestID: q.GetRequestId(), request: q}
		switch {
		case requestid.IsFallback(c.RequestID):
			c.Err = errPrefix(c.RequestID, requestid.Prefix, "as the ids do that are made when an owner is unreachable")
		case requestid.IsHeld(c.RequestID):
			c.Err = errPrefix(c.RequestID, requestid.HeldPrefix, "as the ids do of reservations that are made from slices")
		}
	case *pb.SettleRequest:
		c = Call{Kind: Settle, request: q}
		c.Decider, c.RequestID = requestid.Split(q.GetRequestId())
	case *pb.CancelRequest:
		c = Call{Kind: Cancel, request: q}
		c.Decider, c.RequestID = requestid.Split(q.GetRequestId())
	case *pb.PeekRequest:
		c = Call{Kind: Peek, request: q}
	case *pb.CountRequest:
		c = Call{Kind: Count, RequestID: q.GetRequestId(), request: q}
	case *pb.SliceReturn:
		c = Call{Kind: SliceReturn, request: q}
	case *pb.SliceRecall:
		c = Call{Kind: SliceRecall, request: q}
	case *pb.AdminCall:
		c = Call{Kind: Admin, request: q}
	default:
		panic(fmt.Sprintf("call: %T is not a request", r))
	}
	if c.Kind.IsNew() && requestid.IsSlice(c.RequestID) {
		// An owner keeps slices and calls by the same ids.
		c.Err = errPrefix(c.RequestID, requestid.SlicePrefix, "as the ids of slices do")
	}
	c.Key = c.request.GetKey()
	c.Partition = keypath.Partition(c.Key, ring.Partitions)
	return c
}

// errPrefix is the error of a call with an id of a form that no caller may choose.
func errPrefix(id, prefix, why string) error {
	return &limiter.FieldError{Field: "request_id", Value: text.Quote(id), Problem: "must not begin with " + prefix + ", " + why}
}

// FromItem returns the call of an item from origin.
func FromItem(item *pb.Item, origin Origin) Call {
	c := Call{Err: errNoRequest}
	switch q := item.GetCall().(type) {
	case *pb.Item_Check:
		c = Of(q.Check)
	case *pb.Item_Reserve:
		c = Of(q.Reserve)
	case *pb.Item_Settle:
		c = Of(q.Settle)
	case *pb.Item_Cancel:
		c = Of(q.Cancel)
	case *pb.Item_Peek:
		c = Of(q.Peek)
	case *pb.Item_Count:
		c = Of(q.Count)
	case *pb.Item_SliceReturn:
		c = Of(q.SliceReturn)
	case *pb.Item_SliceRecall:
		c = Of(q.SliceRecall)
	case *pb.Item_Admin:
		c = Of(q.Admin)
	}
	c.Origin, c.Replay, c.Attempt, c.Term, c.Trace = origin, item.GetReplay(), item.GetAttempt(), item.GetTerm(), item.GetTrace()
	if c.Kind == Cancel && c.Attempt != 0 {
		c.Withdrawn = item.GetWithdrawn()
	}
	c.TakesSlice = c.Kind.IsNew() && item.GetTakesSlice()
	c.Expired = item.GetTimeoutNanos() < 0
	if c.Kind == SliceRecall && origin != MemberStream {
		c.Err = &limiter.FieldError{Field: "call", Value: "slice_recall", Problem: "is for members"}
	}
	if origin == API || origin == ClientStream {
		switch {
		case c.Replay:
			c.Err = &limiter.FieldError{Field: "replay", Value: "true", Problem: "is for members"}
		case c.Kind == Count:
			c.Err = &limiter.FieldError{Field: "call", Value: "count", Problem: "is for members"}
		case c.Kind == Admin:
			c.Err = &limiter.FieldError{Field: "call", Value: "admin", Problem: "is for members: use the service Admin"}
		}
	}
	return c
}

// The request of a call, by its kind. Each is nil for another kind.

// Check returns the request of a check.
func (c *Call) Check() *pb.CheckRequest { q, _ := c.request.(*pb.CheckRequest); return q }

// Reserve returns the request of a reserve.
func (c *Call) Reserve() *pb.ReserveRequest { q, _ := c.request.(*pb.ReserveRequest); return q }

// MaxWait returns how long a check or a reserve may wait; nil if it does not say.
func (c *Call) MaxWait() *durationpb.Duration {
	if q, ok := c.request.(interface{ GetMaxWait() *durationpb.Duration }); ok {
		return q.GetMaxWait()
	}
	return nil
}

// Settle returns the request of a settle.
func (c *Call) Settle() *pb.SettleRequest { q, _ := c.request.(*pb.SettleRequest); return q }

// Peek returns the request of a peek.
func (c *Call) Peek() *pb.PeekRequest { q, _ := c.request.(*pb.PeekRequest); return q }

// Count returns the request of a count.
func (c *Call) Count() *pb.CountRequest { q, _ := c.request.(*pb.CountRequest); return q }

// Cancel returns the request of a cancel.
func (c *Call) Cancel() *pb.CancelRequest { q, _ := c.request.(*pb.CancelRequest); return q }

// SliceReturn returns the request of a return of a slice.
func (c *Call) SliceReturn() *pb.SliceReturn { q, _ := c.request.(*pb.SliceReturn); return q }

// Admin returns the request of an operator.
func (c *Call) Admin() *pb.AdminCall { q, _ := c.request.(*pb.AdminCall); return q }

// Held reports whether the call is a settle or a cancel of a reservation that the decider made
// from a slice.
func (c *Call) Held() bool { return c.Decider != "" && requestid.IsHeld(c.CallerID()) }

// CallerID returns the id that the caller uses. For a reservation made in fallback or from a
// slice it names the decider.
func (c *Call) CallerID() string {
	if c.Decider != "" {
		return c.request.(interface{ GetRequestId() string }).GetRequestId()
	}
	return c.RequestID
}

// Item returns the item to send to the owner, or to the decider, which needs the
// caller's id. It may share the message with c. It has no term and no timeout.
func (c *Call) Item(toDecider bool) *pb.Item {
	id := c.RequestID
	if toDecider {
		id = c.CallerID()
	}
	r := c.request
	if identified, ok := r.(interface{ GetRequestId() string }); ok && identified.GetRequestId() != id {
		r = withID(r, id)
	}
	item := itemOf(r)
	item.Replay, item.Attempt, item.Withdrawn, item.TakesSlice, item.Trace = c.Replay, c.Attempt, c.Withdrawn, c.TakesSlice, c.Trace
	return item
}

// Withdrawal returns an item that withdraws the attempt of a check or a reserve.
func (c *Call) Withdrawal() *pb.Item {
	item := itemOf(&pb.CancelRequest{Key: c.Key, RequestId: c.RequestID})
	item.Attempt = c.Attempt
	if q := c.Check(); q != nil {
		item.Withdrawn = proto.CloneOf(q)
	}
	return item
}

// Copy returns an item with a copy of the message and with the id at the owner, which knows a
// reservation made in fallback when the item is sent to it. It may not know one from a slice
// yet, so that the id still names the decider. Only the attempt of a withdrawal is copied too.
func (c *Call) Copy() *pb.Item {
	id := c.RequestID
	if c.Held() {
		id = c.CallerID()
	}
	item := itemOf(withID(c.request, id))
	if c.Kind == Cancel {
		item.Attempt, item.Withdrawn = c.Attempt, proto.CloneOf(c.Withdrawn)
	}
	return item
}

func itemOf(r request) *pb.Item {
	item := &pb.Item{}
	switch q := r.(type) {
	case *pb.CheckRequest:
		item.Call = &pb.Item_Check{Check: q}
	case *pb.ReserveRequest:
		item.Call = &pb.Item_Reserve{Reserve: q}
	case *pb.SettleRequest:
		item.Call = &pb.Item_Settle{Settle: q}
	case *pb.CancelRequest:
		item.Call = &pb.Item_Cancel{Cancel: q}
	case *pb.PeekRequest:
		item.Call = &pb.Item_Peek{Peek: q}
	case *pb.CountRequest:
		item.Call = &pb.Item_Count{Count: q}
	case *pb.SliceReturn:
		item.Call = &pb.Item_SliceReturn{SliceReturn: q}
	case *pb.SliceRecall:
		item.Call = &pb.Item_SliceRecall{SliceRecall: q}
	case *pb.AdminCall:
		item.Call = &pb.Item_Admin{Admin: q}
	}
	return item
}

// withID returns a copy of r with another request id. A peek, and what is sent about a
// slice, have none, and an operator's is in the call.
func withID(r request, id string) request {
	m := proto.Clone(r)
	switch q := m.(type) {
	case *pb.CheckRequest:
		q.RequestId = id
	case *pb.ReserveRequest:
		q.RequestId = id
	case *pb.SettleRequest:
		q.RequestId = id
	case *pb.CancelRequest:
		q.RequestId = id
	case *pb.CountRequest:
		q.RequestId = id
	}
	return m.(request)
}
