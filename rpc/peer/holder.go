// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// holder has the slices that this member holds. Its methods are safe for concurrent use.
type holder interface {
	// Take answers q from a slice. It fills into, and allocates nothing but what into
	// points to. It returns false, and leaves into as it was, if no slice covers q, or if q
	// is to bring a new one, which is only left to q if renews is set.
	Take(q *pb.CheckRequest, into *pb.Decision, renews bool) bool
	// Asks reports whether q should ask the owner for a slice. Then Granted or Answered
	// must follow.
	Asks(q *pb.CheckRequest) bool
	// Granted begins a slice that came with decision d of q, which was sent at that time of
	// the clock of the owners, or later. A slice that does not fit d is returned. It keeps
	// neither q nor d.
	Granted(q *pb.CheckRequest, sent time.Duration, s *pb.Slice, d *pb.Decision)
	// Answered says that no slice came for q.
	Answered(q *pb.CheckRequest)
	// Recall ends the slices of a key, and has them returned at once. It does not wait.
	Recall(key string)
	// Close ends all slices, and waits until they are returned or ctx is done. After that
	// Take and Asks return false. It may be called again.
	Close(ctx context.Context) error
	// Status returns how many slices are held, and how many returns wait to be
	// acknowledged.
	Status() (held, pendingReturns int)
}

// sliced is an answer from a slice, in one piece of memory.
type sliced struct {
	result   pb.Result
	chosen   pb.Result_Decision
	decision pb.Decision
}

// maySlice reports whether a call for another member may be decided from a slice: a check
// of this member's own callers, with no id by which the owner could have to recognize it.
func maySlice(v *routingTable, c *call.Call) bool {
	return c.Kind == call.Check && c.Origin == call.API && c.RequestID == "" && c.Attempt == 0 && !c.Replay && !v.fenced
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
	if !f.TakesSlice {
		return false
	}
	result := r.fromSlice(f.Call, false, f.sent)
	if result == nil {
		return false
	}
	r.withdraw(f)
	f.result = result
	return true
}

// fromSlice returns the answer of a slice, nil if there is none. renews says that it may leave
// the check to the owner to renew the slice.
func (r *Router) fromSlice(c *call.Call, renews bool, began time.Duration) *pb.Result {
	s, ok := r.sliced.Get().(*sliced)
	if !ok {
		s = new(sliced)
	}
	if !r.holder.Take(c.Check(), &s.decision, renews) {
		r.sliced.Put(s)
		return nil
	}
	s.chosen.Decision = &s.decision
	s.result.Result = &s.chosen
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
	switch {
	case !f.TakesSlice:
	case s == nil:
		r.holder.Answered(f.Check())
	default:
		r.holder.Granted(f.Check(), f.sent, s, d)
	}
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
		err = owner.peer.returnSlice(ctx, item)
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

// returnSlice sends the return of a slice to a member, which sends it on if it is not the
// owner any more.
func (p *peer) returnSlice(ctx context.Context, item *pb.Item) error {
	answer, err := pb.NewRateLimiterClient(p.conn).Batch(ctx, &pb.BatchRequest{Items: []*pb.Item{item}})
	if err != nil {
		return err
	}
	if n := len(answer.GetResults()); n != 1 {
		return fmt.Errorf("return a slice: want 1 result, got %d", n)
	}
	result := answer.GetResults()[0]
	if result.GetSliceEnded() == nil && result.GetError() == nil {
		return grpcstatus.Error(codes.Unavailable, "return a slice: the result is of another kind")
	}
	return server.ErrorOf(result)
}

// ReturnSlices ends the slices that this member holds, and waits until their owners have
// what was spent, or ctx is done. The error says what is left. After it, every check is
// forwarded.
func (r *Router) ReturnSlices(ctx context.Context) error { return r.holder.Close(ctx) }
