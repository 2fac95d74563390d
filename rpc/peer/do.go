// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// forwarded is the result of a call that was sent to another member, until its own
// result arrives.
var forwarded = new(pb.Result)

// Do implements [server.Decider]. It is the only entry of the router: every call is
// decided here, by its owner or in fallback. A call of an API that a limit denies, and that
// may wait, is answered when it fits or its time is over.
func (r *Router) Do(ctx context.Context, calls []call.Call) *server.Results {
	results := r.do(ctx, calls)
	r.wait(ctx, calls, results)
	return results
}

// do is Do for calls that do not wait, or not yet. Calls to other members are in flight
// together, while this member decides its own.
//
// The origin of a call determines whether it is forwarded, redirected or fails if
// another member owns its key. See [call.Origin].
func (r *Router) do(ctx context.Context, calls []call.Call) *server.Results {
	results := r.local.NewResults(len(calls))
	if err := ctx.Err(); err != nil {
		results.Fail(grpcstatus.FromContextError(err).Err())
		return results
	}
	traced := r.trace(ctx, results)
	v, now := r.table.Load(), r.owners.Clock()
	var forwards []forward
	var limited *link.DeadlineContext
	var began time.Time
	start := func(i int, decided bool) {
		c := &calls[i]
		c.TakesSlice = !decided && maySlice(v, c) && r.holder.Asks(sliceRequest(c))
		if c.RequestID == "" && c.Kind.IsNew() {
			c.RequestID = r.local.NewID() // charged once, however often it is sent
		}
		results.Set(i, forwarded)
		if forwards == nil {
			forwards = make([]forward, 0, len(calls)-i)
			began = time.Now()
			// Their time began before some of them waited for heirs.
			limited = r.limit(ctx, began.Add(now-r.owners.Clock()), len(calls))
		}
		f := forward{Call: c, index: i, unanswered: decided}
		if f.TakesSlice {
			f.sent = r.owners.Clock()
		}
		traced.forward(c)
		forwards = append(forwards, f)
		r.start(limited, v, &forwards[len(forwards)-1])
	}
	for i := range calls {
		switch result := r.place(v, &calls[i], now); result {
		case nil:
			results.SetSince(i, r.owners.Place(calls[i].Partition).Origin)
		case forwarded:
			if answer := r.takeSlice(v, &calls[i], now); answer != nil {
				results.Set(i, answer)
			} else {
				start(i, false)
			}
		default:
			results.Set(i, result)
		}
	}
	traced.decide(len(forwards), len(calls))
	r.decide(ctx, calls, results)
	unconfirmed := r.confirm(ctx, calls, results)
	traced.decided()
	for _, i := range unconfirmed {
		if c := &calls[i]; c.Origin.Streamed() {
			results.Set(i, r.redirect(c))
		} else {
			start(i, true)
		}
	}
	for i := range calls {
		if c := &calls[i]; c.Kind.EndsReservation() && c.Origin != call.Outbox && results.Code(i) == codes.NotFound {
			if result := r.endUnknown(c); result != nil {
				results.Set(i, result)
			}
		}
	}
	r.finish(limited, forwards)
	for i := range forwards {
		f := &forwards[i]
		r.sliceAnswered(f)
		traced.forwarded(i, f)
		f.Unanswered = f.mayBeCharged()
		results.Set(f.index, f.result)
		if isForwarded(f.result) {
			r.local.ObserveTraced(results, pb.Route_ROUTE_FORWARD, time.Since(began))
		}
	}
	return results
}

// Reject implements [server.Decider].
func (r *Router) Reject(err error) error { return r.local.Reject(err) }

// place chooses where a call is decided. It returns nil for the local service,
// forwarded for another member, and otherwise the result.
func (r *Router) place(v *routingTable, c *call.Call, now time.Duration) *pb.Result {
	if c.Err != nil || c.Expired && !c.Origin.Streamed() {
		return nil // the local service rejects it
	}
	if c.Kind == call.SliceRecall {
		r.holder.Recall(c.Key)
		return server.SliceEnded()
	}
	mine := r.mine(v, c.Partition, now)
	if c.Origin == call.MemberStream && c.Term != 0 && mine {
		mine = c.Term <= r.owners.Place(c.Partition).Term // else the sender knows of a later owner
	}
	if c.Decider == r.name && c.Held() {
		return r.placeHeld(c, mine)
	}
	if c.Decider == r.name {
		if result, known := r.endInFallback(c); known || c.Origin.Streamed() && !mine {
			return result
		}
	}
	elsewhere := c.Decider != "" && c.Decider != r.name
	if c.Origin.Streamed() {
		if elsewhere {
			if m := v.member(c.Decider); m != nil {
				return redirectTo(m)
			}
		}
		if mine || passing(r.owners.Place(c.Partition).Role) {
			r.identify(c)
			return nil // confirm redirects it if it was not decided
		}
		return r.redirect(c)
	}
	mine = mine && !elsewhere
	if !mine && c.Origin != call.Outbox {
		if err := r.local.Validate(c); err != nil {
			return server.Failed(err)
		}
	}
	if mine {
		if r.owners.Waits() { // perhaps another member answers it in the end
			r.identify(c)
			number(c)
		}
		return nil
	}
	return forwarded
}

// identify gives a call an id while there are heirs, so that it is charged once, wherever it
// is charged in the end.
func (r *Router) identify(c *call.Call) {
	if c.RequestID == "" && c.Kind.IsNew() && r.owners.Waits() {
		c.RequestID = r.local.NewID()
	}
}

// redirect returns a redirect to the owner of a call.
func (r *Router) redirect(c *call.Call) *pb.Result {
	return redirectTo(r.ownerOf(r.table.Load(), c.Partition))
}

// endInFallback settles or cancels a reservation that this member made in fallback.
// The reservation is in the fallback service. The owner gets the settle or cancel from
// the outbox, after the replay of the reserve. known is false if this member does not
// know the reservation; the result is then NotFound.
//
// The router tries it in three cases: first, if the id names this member; after the
// owner returned NotFound, because callers may use their own id; and if the owner
// cannot be reached.
func (r *Router) endInFallback(c *call.Call) (result *pb.Result, known bool) {
	result = decideAt(r.fallback, c)
	switch code(result) {
	case codes.NotFound:
		return result, false
	case codes.OK:
		if rejected := r.enqueue(c.Copy()); rejected != nil {
			return rejected, true
		}
	}
	return result, true
}

// decideAt lets a service of this process decide one call.
func decideAt(s *server.Service, c *call.Call) *pb.Result {
	results := s.Do(context.Background(), []call.Call{*c})
	defer results.Release()
	return results.Get(0)
}

// redirectTo returns a redirect to a member, or to none if m is nil.
func redirectTo(m *memberConn) *pb.Result {
	to := &pb.Redirect{}
	if m != nil {
		to.Owner, to.Address = m.Name, m.GRPC
	}
	return &pb.Result{Result: &pb.Result_Redirect{Redirect: to}}
}

// routeOf returns where the answer to a call of kind k has its route; nil if
// result is not an answer to such a call.
func routeOf(k call.Kind, result *pb.Result) *pb.Route {
	switch k {
	case call.Check, call.Reserve:
		if d := result.GetDecision(); d != nil {
			return &d.Route
		}
	case call.Settle, call.Cancel:
		if s := result.GetSettlement(); s != nil {
			return &s.Route
		}
	case call.Peek:
		if l := result.GetLimits(); l != nil {
			return &l.Route
		}
	case call.Count:
		if n := result.GetCounted(); n != nil {
			return &n.Route
		}
	}
	return nil
}

// isForwarded reports whether another member made a decision.
func isForwarded(result *pb.Result) bool {
	return result.GetDecision().GetRoute() == pb.Route_ROUTE_FORWARD || result.GetCounted().GetRoute() == pb.Route_ROUTE_FORWARD
}
