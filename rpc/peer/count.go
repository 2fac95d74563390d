// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"math"
	"strconv"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Count counts hits on counters, each at the owner of its key, and returns the answers
// in their order. An invalid one does not affect the others: its [server.Counted] has
// the error. Hits on one counter in the same call are counted in their order, except those that
// wait for slices of it. Hits that a slice of this member covers are counted there.
//
// If an owner has not answered after seven eighths of the time that ctx leaves, this
// member counts in its place, against its share of the limit: limit / members, rounded
// down. The route is fallback then, and the outbox reports the hits to the owner. If the
// outbox is full, the error is Unavailable. Reported hits of a window that is over are
// dropped. A GiveBack may reach the owner before the hits that it takes off: then more
// stays used than was, never less.
//
// An error means that nothing was counted: ctx had ended, or there are more hits than
// [server.MaxItems].
func (r *Router) Count(ctx context.Context, hits []server.Count) ([]server.Counted, error) {
	if err := ctx.Err(); err != nil {
		return nil, grpcstatus.FromContextError(err).Err()
	}
	if len(hits) > server.MaxItems {
		return nil, wrongField("hits", strconv.Itoa(len(hits)), "must be on at most "+strconv.Itoa(server.MaxItems)+" counters")
	}
	c := r.counting.Get().(*counting)
	defer r.counting.Put(c)
	if cap(c.requests) < len(hits) {
		c.calls, c.requests = make([]call.Call, len(hits)), make([]pb.CountRequest, len(hits))
	}
	for i := range hits {
		request := &c.requests[:len(hits)][i]
		hits[i].Fill(request)
		c.calls[:len(hits)][i] = call.Of(request)
	}
	results := r.Do(ctx, c.calls[:len(hits)])
	defer results.Release()
	counted := make([]server.Counted, len(hits))
	for i := range counted {
		counted[i] = results.Counted(i)
	}
	return counted, nil
}

// counting is the memory of hits while they are counted. It is used again.
type counting struct {
	calls    []call.Call
	requests []pb.CountRequest
}

// countInFallback counts hits in place of the owner, against this member's share of
// the limit. The outbox reports the hits, with the end of their window, to the owner.
func (r *Router) countInFallback(c *call.Call) *pb.Result {
	share := proto.CloneOf(c.Count())
	share.RequestId = c.RequestID
	members := int64(max(r.Roster(), 1))
	share.Limit /= members
	divide(share.GetThrottle(), members)
	shared := call.Of(share)
	result := decideAt(r.fallback, &shared)
	d := result.GetCounted()
	if d == nil || d.GetFull() || d.GetLimited() || share.GetHits() == 0 {
		return result
	}
	replay := c.Copy()
	replay.Replay = true
	replay.GetCount().WindowEnd = d.GetWindowEnd()
	if rejected := r.enqueue(replay); rejected != nil {
		return rejected
	}
	return result
}

// divide makes a throttle the share of one of so many members. Nil is none.
func divide(t *pb.Throttle, members int64) {
	switch {
	case t == nil:
		return
	case t.PeriodNanos <= math.MaxInt64/members:
		t.PeriodNanos *= members
	case t.Count >= members:
		t.Count /= members
	default:
		t.Capacity = 0 // too slow to be divided
	}
	t.Capacity /= members
}

// isUnknownCount reports whether the owner does not know what a count is, or what a throttle is,
// as members of earlier versions do not.
func isUnknownCount(f *forward, result *pb.Result) bool {
	if f.Kind != call.Count {
		return false
	}
	isThrottle := f.Count().GetThrottle() != nil
	return isUnknownCall(result) || isThrottle && code(result) == codes.InvalidArgument && result.GetError().GetField() == "unit"
}

// isUnknownCall reports whether a member does not know what a call is.
func isUnknownCall(result *pb.Result) bool {
	return code(result) == codes.InvalidArgument && result.GetError().GetField() == "call"
}
