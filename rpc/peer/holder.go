// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// holder has the slices that this member holds. Its methods are safe for concurrent use.
type holder interface {
	// Take answers q from a slice: a check, or a reserve, whose reservation it then has. It
	// fills into, and allocates nothing for a check but what into points to. It returns
	// false, and leaves into as it was, if no slice covers q, or if q is to bring a new one,
	// which is only left to q if renews is set.
	Take(q slices.Request, into *pb.Decision, renews bool) bool
	// Count is like Take, for hits on a counter.
	Count(q *pb.CountRequest, into *pb.Counted, renews bool) bool
	// Asks reports whether q should ask the owner for a slice. Then Granted or Answered
	// must follow.
	Asks(q slices.Request) bool
	// Granted begins a slice that came with decision d of q, which was sent at that time of
	// the clock of the owners, or later. A slice that does not fit d is returned. It keeps
	// neither q nor d.
	Granted(q slices.Request, sent time.Duration, s *pb.Slice, d *pb.Decision)
	// Answered says that no slice came for q.
	Answered(q slices.Request)
	// End settles or cancels a reservation that Take made, by its id at the owner. It returns
	// nil, and no error, if the owner is to be asked, after Returning.
	End(c *call.Call) (*pb.Settlement, error)
	// Returning returns what is closed when the owner of a key has a reservation that Take
	// made, by its id at the owner. It is nil if the holder does not have the reservation, or
	// its slice has not ended.
	Returning(key, id string) <-chan struct{}
	// Recall ends the slices of a key, and has them returned at once. It does not wait.
	Recall(key string)
	// Close ends all slices, and waits until they are returned or ctx is done. After that
	// Take and Asks return false. It may be called again.
	Close(ctx context.Context) error
	// Status returns how many slices are held, and how many returns wait to be
	// acknowledged.
	Status() (held, pendingReturns int)
}

// slicedCount is the answer to a count from a slice, in one piece of memory.
type slicedCount struct {
	result  pb.Result
	chosen  pb.Result_Counted
	counted pb.Counted
}

// sliced is an answer from a slice, in one piece of memory.
type sliced struct {
	result   pb.Result
	chosen   pb.Result_Decision
	decision pb.Decision
}

// maySlice reports whether a call for another member may be decided from a slice: a check, a
// reserve or hits of this member's own callers, with no id by which the owner could have to
// recognize it.
func maySlice(v *routingTable, c *call.Call) bool {
	if q := c.Count(); q != nil && (q.GetHits() == 0 || q.GetGiveBack() || q.GetThrottle() != nil) {
		return false
	}
	return c.Kind.IsNew() && c.Origin == call.API && c.RequestID == "" && c.Attempt == 0 && !c.Replay && !v.fenced
}

// sliceRequest returns the request of a check, a reserve or a count.
func sliceRequest(c *call.Call) slices.Request {
	switch c.Kind {
	case call.Check:
		return c.Check()
	case call.Count:
		return c.Count()
	}
	return c.Reserve()
}

// takeSlice decides a call from a slice that this member holds. It returns nil if no slice
// covers it: its owner decides then. began is when the call came, by the clock of the owners.
func (r *Router) takeSlice(v *routingTable, c *call.Call, began time.Duration) *pb.Result {
	if !maySlice(v, c) {
		return nil
	}
	return r.fromSlice(c, true, began)
}

// spendSlice decides a call that asked for a slice, and that its owner does not answer, from
// what is left of the one that this member holds. It reports whether that covers it.
func (r *Router) spendSlice(f *forward) bool {
	if !f.TakesSlice || f.Kind == call.Count && f.unanswered { // hits cannot be withdrawn
		return false
	}
	result := r.fromSlice(f.Call, false, f.sent)
	if result == nil {
		return false
	}
	if f.unanswered { // it may have been charged at the owner, too
		r.withdraw(f.Call)
	}
	f.result = result
	return true
}

// fromSlice returns the answer of a slice, nil if there is none. renews says that it may leave
// the call to the owner to renew the slice.
func (r *Router) fromSlice(c *call.Call, renews bool, began time.Duration) *pb.Result {
	if q := c.Count(); q != nil {
		s := new(slicedCount)
		if !r.holder.Count(q, &s.counted, renews) {
			return nil
		}
		s.chosen.Counted = &s.counted
		s.result.Result = &s.chosen
		r.local.Observe(pb.Route_ROUTE_SLICE, r.owners.Clock()-began)
		return &s.result
	}
	s, ok := r.sliced.Get().(*sliced)
	if !ok {
		s = new(sliced)
	}
	if !r.holder.Take(sliceRequest(c), &s.decision, renews) {
		r.sliced.Put(s)
		return nil
	}
	s.chosen.Decision = &s.decision
	s.result.Result = &s.chosen
	r.local.CountSlice()
	r.local.Observe(pb.Route_ROUTE_SLICE, r.owners.Clock()-began)
	return &s.result
}

// sliceAnswered tells the holder what came of a call that asked for a slice. Callers do not
// see slices.
func (r *Router) sliceAnswered(f *forward) {
	s, d := f.result.GetSlice(), f.result.GetDecision()
	if s != nil {
		f.result.Slice = nil
	}
	if c := f.result.GetCounted(); s != nil && c != nil {
		d = slices.DecisionOf(c)
	}
	switch {
	case !f.TakesSlice:
	case s == nil:
		r.holder.Answered(sliceRequest(f.Call))
	default:
		r.holder.Granted(sliceRequest(f.Call), f.sent, s, d)
	}
}

// placeHeld chooses where a settle or a cancel of a reservation is decided that this member
// made from a slice: here, while the slice is held, and otherwise by the owner, under its id
// there, once that has the return of the slice. A call by a stream does not wait for that, nor
// is it forwarded, because all calls of the stream would wait.
func (r *Router) placeHeld(c *call.Call, mine bool) *pb.Result {
	if err := r.local.Validate(c); err != nil {
		return server.Failed(err)
	}
	settlement, err := r.holder.End(c)
	switch {
	case err != nil:
		return server.Failed(err)
	case settlement != nil:
		return &pb.Result{Result: &pb.Result_Settlement{Settlement: settlement}}
	}
	returned := r.holder.Returning(c.Key, c.RequestID)
	switch {
	case mine && returned == nil:
		return nil
	case !c.Origin.Streamed():
		return forwarded
	case returned == nil:
		return r.redirect(c)
	}
	return notReturned()
}

// notReturned returns the result of a settle or a cancel of a reservation from a slice that
// has ended, if the owner of the key may not have its return yet. The owner would not know the
// reservation, and the usage would be lost.
func notReturned() *pb.Result {
	return unavailable("the return of the slice of this reservation is not acknowledged yet: try again")
}

// returning returns what f has to wait for before it is sent to the owner: the return of the
// slice from which this member made its reservation. Nil: nothing.
func (r *Router) returning(f *forward) <-chan struct{} {
	if !f.Kind.EndsReservation() {
		return nil
	}
	return r.holder.Returning(f.Key, f.RequestID)
}

// awaitReturn waits until the owner has the reservation of f, or its return is lost, and sends
// f to it.
func (r *Router) awaitReturn(ctx *link.DeadlineContext, f *forward) {
	at, _ := ctx.Deadline()
	returned := wait(ctx, time.Until(at), f.returned)
	f.returned = nil
	if returned {
		r.startAtOwner(ctx, r.table.Load(), f)
		return
	}
	f.result = notReturned()
}

// askMakerAgain asks the member again that made the reservation of f from a slice, and that
// waits for the return of the slice. If there is no time left, its last answer is that to f.
func (r *Router) askMakerAgain(ctx *link.DeadlineContext, f *forward, last *pb.Result) {
	pause := min(bounceWait<<f.asked, maxBounceWait)
	f.asked = min(f.asked+1, 10)
	if at, _ := ctx.Deadline(); time.Until(at) < pause+bounceWait || ctx.Err() != nil {
		f.result = last
		return
	}
	wait(ctx, pause, nil)
	r.start(ctx, r.table.Load(), f)
}

// wait waits for a time, until ctx ends, or until done is closed, and reports whether that is.
func wait(ctx context.Context, d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// mayBeReturning reports whether the owner may not know the reservation of f because the
// return of its slice is under way: the member that made it did not answer, and has not left.
func (r *Router) mayBeReturning(f *forward) bool {
	return f.makerSilent && r.table.Load().member(f.Decider) != nil
}

// returnSlice sends the return of a slice to the owner of its key. It returns nil when the
// owner has it. After an error that is not [slices.ErrRejected] it is to be sent again.
//
// It is not sent by the link. An owner that waits for a return may be answering a batch of
// that link meanwhile, and answers one at a time.
func (r *Router) returnSlice(ctx context.Context, item *pb.Item) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	c := call.FromItem(item, call.Outbox)
	var err error
	if owner := r.ownerOf(r.table.Load(), c.Partition); owner != nil && owner.peer != nil {
		err = r.returnSliceTo(ctx, owner, item)
	} else {
		err = r.deliver(ctx, item)
	}
	if _, final := outbox.ReasonOf(err); final {
		if r.rejectionLog.returns.allow(time.Now()) {
			r.log.Warn("return of a slice rejected: it is charged in full", "error", err)
		}
		return fmt.Errorf("%w: %w", slices.ErrRejected, err)
	}
	return err
}

// returnSliceTo sends the return of a slice to a member, which sends it on if it is not the
// owner any more.
func (r *Router) returnSliceTo(ctx context.Context, m *memberConn, item *pb.Item) error {
	calls := &pb.BatchRequest{Items: []*pb.Item{item}}
	answer, err := r.ask(ctx, m, &pb.PeerMessage{Message: &pb.PeerMessage_Calls{Calls: calls}})
	results := answer.GetResults().GetResults()
	if grpcstatus.Code(err) == codes.Unimplemented { // its version has no Ask
		var old *pb.BatchResponse
		old, err = pb.NewRateLimiterClient(m.peer.conn).Batch(ctx, calls)
		results = old.GetResults()
	}
	if err != nil {
		return err
	}
	if n := len(results); n != 1 {
		return fmt.Errorf("return a slice: want 1 result, got %d", n)
	}
	result := results[0]
	if result.GetSliceEnded() == nil && result.GetError() == nil {
		return grpcstatus.Error(codes.Unavailable, "return a slice: the result is of another kind")
	}
	return server.ErrorOf(result)
}

// ReturnSlices ends the slices that this member holds, and waits until their owners have
// what was spent, or ctx is done. The error says what is left. After it, every call is
// forwarded.
func (r *Router) ReturnSlices(ctx context.Context) error { return r.holder.Close(ctx) }
