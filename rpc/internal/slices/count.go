// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/rpc/pb"
)

// DecisionOf returns the answer to a count as a decision, for [Table.Granted]: the counter is
// its only limit, and costs 1 for a hit. The window of the limit is what is left of that of the
// counter.
func DecisionOf(c *pb.Counted) *pb.Decision {
	outcome := pb.Outcome_OUTCOME_ALLOWED
	if c.GetFull() || c.GetUsed() > c.GetLimit() {
		outcome = pb.Outcome_OUTCOME_DENIED
	}
	return &pb.Decision{Outcome: outcome, Owner: c.GetOwner(), Replayed: c.GetReplayed(), Limits: []*pb.LimitState{{
		Limit: c.GetLimit(), Remaining: c.GetLimit() - c.GetUsed(), Cost: 1,
		ResetAt: timestamppb.New(time.Unix(0, c.GetWindowEnd())), Window: durationpb.New(time.Duration(c.GetResetNanos())),
	}}}
}

// Count counts hits in memory, and makes c the answer then. Like Take, it returns false if the
// owner must count them, and leaves c as it was. It is not for hits that are given back, for a
// look without hits, or for those with a request id or a window.
func (t *Table) Count(q *pb.CountRequest, c *pb.Counted, renews bool) bool {
	if t.keys.Load() == 0 || q.GetRequestId() != "" || q.GetHits() <= 0 || q.GetGiveBack() || q.GetWindowEnd() != 0 {
		return false
	}
	s := t.shard(q.GetKey())
	s.mu.Lock()
	defer s.mu.Unlock()
	now := t.options.Now()
	of, hits := shapeOfCount(q), [...]int64{q.GetHits()}
	var a Answer
	if !t.takeLocked(s, q.GetKey(), &of, hits[:], &a, now, renews) {
		return false
	}
	l := a.Decision.GetLimits()[0]
	c.Reset()
	c.Limit, c.Used, c.Owner, c.Route = l.GetLimit(), l.GetLimit()-a.Remaining(0), a.Decision.GetOwner(), pb.Route_ROUTE_SLICE
	c.WindowEnd, c.ResetNanos = l.GetResetAt().AsTime().UnixNano(), max(a.windowEnds-now, 1)
	return true
}
