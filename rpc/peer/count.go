// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Count counts hits on counters, each at the owner of its key, all under way
// together, and says what came of each, in their order. A wrong one costs the
// others nothing: its [server.Counted] has the error. Hits on one counter in the
// same call are counted in their order.
//
// If an owner has not answered after seven eighths of the time that ctx leaves,
// this member counts in its place, against its share of the limit: limit /
// members, rounded down. It says route fallback, and tells the owner of the hits
// when it can; if it has no room to remember that, the error is Unavailable. Hits
// of a window that is over when the owner hears of them count nowhere.
// What is given back may be told before the hits that it is of: then more stays
// used than was, never less.
//
// An error means that nothing was counted: ctx had ended, or the hits are more
// than [server.MaxItems].
func (r *Router) Count(ctx context.Context, hits []server.Count) ([]server.Counted, error) {
	if err := ctx.Err(); err != nil {
		return nil, grpcstatus.FromContextError(err).Err()
	}
	if len(hits) > server.MaxItems {
		return nil, wrongField("hits", strconv.Itoa(len(hits)), "must be on at most "+strconv.Itoa(server.MaxItems)+" counters")
	}
	v, counted := r.view.Load(), make([]server.Counted, len(hits))
	var away []counting
	var began time.Time
	var limited *deadline
	for i := range hits {
		q := &hits[i]
		if v.mine(ring.PartitionOf(q.Key)) {
			counted[i].Route = pb.Route_ROUTE_LOCAL
			continue
		}
		if away == nil {
			away = make([]counting, 0, len(hits)-i)
			began, limited = time.Now(), r.limit(ctx)
		}
		away = append(away, counting{at: i})
		c := &away[len(away)-1]
		c.call.Count = q.Request(r.local.NewID())
		c.item.Call = &c.call
		if r.prepare(&c.way, &c.item) {
			r.start(limited, v, &c.way)
		}
	}
	for i := range hits {
		if counted[i].Route == pb.Route_ROUTE_LOCAL {
			counted[i] = r.local.Count(&hits[i])
		}
	}
	for i := range away {
		c := &away[i]
		r.finish(limited, &c.way)
		r.observe(&c.way, began)
		if counted[c.at] = server.CountedBy(c.way.result.GetCounted()); c.way.result.GetCounted() == nil {
			counted[c.at] = server.Counted{Err: errorOf(c.way.result)}
		}
	}
	return counted, nil
}

// counting is hits on their way to their owner, in one piece of memory but for the
// request.
type counting struct {
	at   int // in the hits of the caller
	way  call
	item pb.Item
	call pb.Item_Count
}

// fallCount counts hits in place of the owner, against this member's share of the
// limit. The owner is told of the hits, and in which window they came.
func (r *Router) fallCount(c *call) {
	q := c.item.GetCount()
	share := &pb.CountRequest{
		Key: q.GetKey(), Limit: q.GetLimit() / int64(max(r.Roster(), 1)), Unit: q.GetUnit(), UnitMultiplier: q.GetUnitMultiplier(),
		Hits: q.GetHits(), GiveBack: q.GetGiveBack(), RequestId: q.GetRequestId(),
	}
	c.result = r.answerHere(r.fallback, &pb.Item{Call: &pb.Item_Count{Count: share}})
	d := c.result.GetCounted()
	if d == nil || d.GetFull() || q.GetHits() == 0 {
		return
	}
	told := proto.CloneOf(q)
	told.WindowEnd = d.GetWindowEnd()
	c.item = &pb.Item{Call: &pb.Item_Count{Count: told}}
	r.tell(c, true)
}

// unknownCount reports whether the owner does not know what a count is, as
// members of an earlier version do not.
func unknownCount(item *pb.Item, result *pb.Result) bool {
	_, ok := item.GetCall().(*pb.Item_Count)
	return ok && code(result) == codes.InvalidArgument && result.GetError().GetField() == "call"
}
