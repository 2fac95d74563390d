// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/ownership"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// call is one call on its way to its owner. The goroutine that has it starts it,
// does other things, and finishes it.
type call struct {
	item      *pb.Item
	partition int
	// asked is the id that the caller has for a reservation, if it is not the
	// one that the owner has: it was made in fallback.
	asked string
	// decider is the member that made the reservation in fallback, while that is
	// whom the call goes to. Empty: it goes to the owner.
	decider string

	// telling: the call comes from the outbox, and is told to nobody but its owner.
	telling bool

	view       *view
	to         *memberAt // whom it was sent to last
	pending    *link.Pending
	unheard    bool // somebody may have decided it, and could not say so
	redirected bool // by the owner in an older view, or it was the older one
	rerouted   bool
	bounces    int

	result *pb.Result // once it is decided
}

// deadline ends calls to owners in time for a fallback. It is a context for
// links, which read the deadline; Done is that of the caller.
type deadline struct {
	context.Context
	at time.Time
}

// Deadline implements context.Context.
func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }

// limit returns a context that leaves an eighth of the caller's time for an
// answer without the owner.
func (r *Router) limit(ctx context.Context) *deadline {
	now := time.Now()
	wait := r.timeout
	if at, ok := ctx.Deadline(); ok {
		wait = min(wait, at.Sub(now)/8*7)
	}
	return &deadline{ctx, now.Add(wait)}
}

// start sends c to its owner. It does not wait.
func (r *Router) start(ctx *deadline, v *view, c *call) {
	c.view = v
	if c.decider != "" {
		if r.startAtDecider(ctx, c) {
			return
		}
	}
	if v.mine(c.partition) {
		c.result = r.answerHere(r.local, c.item)
		return
	}
	owner := v.owner(c.partition)
	if owner == nil || owner.peer == nil { // or this process, which is fenced
		r.fall(c, causeNoOwner)
		return
	}
	r.startAt(ctx, c, owner)
}

// startAt sends c to a member that may be its owner.
func (r *Router) startAt(ctx *deadline, c *call, to *memberAt) {
	c.item.Term = c.view.roles.Term(c.partition)
	if c.item.GetReserve() != nil && c.item.Attempt == 0 && !c.telling {
		c.item.Attempt = rand.Uint64() | 1
	}
	c.to = to
	c.pending = to.peer.link.Start(ctx, c.item)
}

// finish waits for the result of c, and follows it where it leads.
func (r *Router) finish(ctx *deadline, c *call) {
	for c.pending != nil {
		result, err := c.pending.Wait(ctx)
		c.pending = nil
		c.unheard = c.unheard || mayBeDecided(err)
		if err == nil && codes.Code(result.GetError().GetCode()) == codes.DeadlineExceeded {
			err = link.ErrTimeout // it was too late there: nothing was decided
		}
		switch {
		case err != nil:
			r.unanswered(ctx, c, err)
		case result.GetRedirect() != nil:
			r.heard(c, result.GetTerm())
			r.redirect(ctx, c, result.GetRedirect())
		default:
			r.heard(c, result.GetTerm())
			r.answered(ctx, c, result)
		}
	}
	if !c.telling {
		r.settled(c)
	}
}

// heard takes a term that the asked member knows of.
func (r *Router) heard(c *call, term uint64) {
	if term > r.view.Load().roles.Term(c.partition) {
		r.hear(ownership.Heard{{Partition: c.partition, Term: term}})
	}
}

// mayBeDecided reports whether a call that ended with err may have been decided by
// the member that it was sent to.
func mayBeDecided(err error) bool {
	return errors.Is(err, link.ErrTimeout) || errors.Is(err, link.ErrBroken) || errors.Is(err, link.ErrClosed)
}

// answered takes the result of the member that was asked.
func (r *Router) answered(ctx *deadline, c *call, result *pb.Result) {
	if c.decider != "" {
		if code(result) == codes.NotFound {
			c.decider = "" // it does not know of the reservation any more, the owner may
			r.start(ctx, r.view.Load(), c)
			return
		}
		if result.GetError() == nil && result.GetSettlement() == nil {
			r.fall(c, causeBroken)
			return
		}
		c.result = result // it says fallback
		return
	}
	if result.GetError() == nil && !forwarded(c.item, result) || unknownCount(c.item, result) {
		r.fall(c, causeBroken) // no answer to this question: another version
		return
	}
	c.result = result
}

// forwarded marks the answer to a call. It returns false if it is none.
func forwarded(item *pb.Item, result *pb.Result) bool {
	switch item.GetCall().(type) {
	case *pb.Item_Check, *pb.Item_Reserve:
		if d := result.GetDecision(); d != nil {
			d.Route = pb.Route_ROUTE_FORWARD
			return true
		}
	case *pb.Item_Settle, *pb.Item_Cancel:
		if s := result.GetSettlement(); s != nil {
			s.Route = pb.Route_ROUTE_FORWARD
			return true
		}
	case *pb.Item_Peek:
		if l := result.GetLimits(); l != nil {
			l.Route = pb.Route_ROUTE_FORWARD
			return true
		}
	case *pb.Item_Count:
		if n := result.GetCounted(); n != nil {
			n.Route = pb.Route_ROUTE_FORWARD
			return true
		}
	}
	return false
}

// redirect follows a redirect, once. If the owner has changed since c was sent,
// the view says where to; if not, the member that was asked does.
func (r *Router) redirect(ctx *deadline, c *call, to *pb.Redirect) {
	r.metrics.redirects.Inc()
	if c.redirected {
		r.bounced(ctx, c)
		return
	}
	c.redirected = true
	now := r.view.Load()
	if c.decider != "" || now.sends(c) != c.to.Member {
		c.decider = ""
		r.start(ctx, now, c)
		return
	}
	m := now.member(to.GetOwner())
	if m == nil || m.Member == c.to.Member || m.peer == nil {
		// Nobody, or nobody that this node knows of, or this node, which would
		// have decided if it owned the partition by its own view.
		r.bounced(ctx, c)
		return
	}
	c.view = now
	r.startAt(ctx, c, m)
}

// Members follow the same membership, some 100 ms apart. A call that they send
// from one to another waits for that, and no longer.
const (
	bounceWait = 20 * time.Millisecond
	maxBounces = 12
)

// bounced waits a moment for members to agree on who owns the partition of c, and
// begins anew. If they do not, it is decided without them.
func (r *Router) bounced(ctx *deadline, c *call) {
	if c.bounces++; c.telling || c.bounces > maxBounces || time.Until(ctx.at) < 2*bounceWait {
		r.fall(c, causeRedirect)
		return
	}
	pause := time.NewTimer(bounceWait)
	defer pause.Stop()
	select {
	case <-pause.C:
		c.redirected, c.rerouted = false, false
		r.start(ctx, r.view.Load(), c)
	case <-ctx.Done():
		c.result = failed(grpcstatus.FromContextError(context.Cause(ctx)).Err()) // the caller has gone
	}
}

// sends returns whom c would be sent to now.
func (v *view) sends(c *call) Member {
	m := v.owner(c.partition)
	if c.decider != "" {
		m = v.member(c.decider)
	}
	if m == nil {
		return Member{}
	}
	return m.Member
}

// unanswered goes on with a call that has no answer: if somebody else would be
// asked now, because its member goes, with that one, once.
func (r *Router) unanswered(ctx *deadline, c *call, err error) {
	if errors.Is(err, link.ErrClosed) || errors.Is(err, link.ErrBroken) {
		if now := r.view.Load(); !c.rerouted && now.sends(c) != c.to.Member {
			c.rerouted = true
			r.start(ctx, now, c)
			return
		}
	}
	if cause, ok := causeOf(err); ok {
		r.fall(c, cause)
		return
	}
	c.result = failed(grpcstatus.FromContextError(err).Err()) // the caller has gone
}

// decide takes one call that this process does not decide to its end.
func (r *Router) decide(ctx context.Context, v *view, item *pb.Item) *pb.Result {
	if err := ctx.Err(); err != nil {
		return failed(grpcstatus.FromContextError(err).Err())
	}
	began := time.Now()
	var c call
	if r.prepare(&c, item) {
		limited := r.limit(ctx)
		r.start(limited, v, &c)
		r.finish(limited, &c)
	}
	r.observe(&c, began)
	return c.result
}

// prepare makes c of an item. It returns false if c has its result already.
func (r *Router) prepare(c *call, item *pb.Item) bool {
	c.item = item
	c.partition = ring.PartitionOf(keyOf(item))
	c.nameDecider() // before validation: the id may be longer than a caller's own
	err := r.local.Validate(c.item)
	if err == nil {
		err = checkNewID(c.item)
	}
	if err != nil {
		c.result = failed(err)
		return false
	}
	r.identify(c.item)
	return true
}

// observe counts the time of a call that its owner decided elsewhere.
func (r *Router) observe(c *call, began time.Time) {
	if c.result.GetDecision().GetRoute() == pb.Route_ROUTE_FORWARD || c.result.GetCounted().GetRoute() == pb.Route_ROUTE_FORWARD {
		r.local.Observe(pb.Route_ROUTE_FORWARD, time.Since(began))
	}
}

// answerHere lets a service of this process decide.
func (r *Router) answerHere(service answerer, item *pb.Item) *pb.Result {
	var results [1]*pb.Result
	service.Answer([]*pb.Item{item}, results[:])
	return results[0]
}

// answerer is a [server.Service].
type answerer interface {
	Answer(items []*pb.Item, results []*pb.Result)
}
