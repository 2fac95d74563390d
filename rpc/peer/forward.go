// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// forward is a call that is sent to its owner. One goroutine starts it and later
// finishes it.
type forward struct {
	*call.Call
	index int // in the results

	toDecider bool // it was sent last to the member that made the reservation
	table     *routingTable
	to        *memberConn // the member that it was sent to last
	pending   *link.Pending
	waits     bool            // for members to agree on the owner; see bounce
	returned  <-chan struct{} // what it waits for before it is sent to its owner; see returning

	asked       int  // how often its maker has answered that a return is under way; at most 10
	makerSilent bool // the member that made its reservation from a slice did not answer

	unanswered bool // a member may have decided it whose answer did not arrive
	redirected bool // by the owner, or by a member with another routing table
	rerouted   bool
	bounces    int  // at most 10
	fellBack   bool // no owner has decided it

	sent time.Duration // when it was sent first, by the clock of the owners, if it takes a slice

	result *pb.Result // once it is decided
}

// timeFor returns how long a call may take from now on until it is decided without its owner.
// That leaves an eighth of the caller's time.
func (r *Router) timeFor(ctx context.Context, now time.Time) time.Duration {
	if at, ok := ctx.Deadline(); ok {
		return min(r.timeout, at.Sub(now)/8*7)
	}
	return r.timeout
}

// limit returns a context whose deadline is when [Router.timeFor] is over.
//
// The calls of one request are sent in their order.
func (r *Router) limit(ctx context.Context, now time.Time, calls int) *link.DeadlineContext {
	limited := link.WithDeadline(ctx, now.Add(r.timeFor(ctx, now)))
	if calls > 1 {
		limited = limited.InTurn()
	}
	return &limited
}

// start sends f to the member that made its reservation in fallback or from a slice, unless
// that was this one, and otherwise to its owner. It does not wait.
func (r *Router) start(ctx *link.DeadlineContext, v *routingTable, f *forward) {
	f.table, f.toDecider = v, f.Decider != "" && f.Decider != r.name
	if f.toDecider {
		m := v.member(f.Decider)
		switch {
		case m != nil && m.peer != nil:
			f.to = m
			f.pending = m.peer.link.Start(ctx, f.Item(true))
		case f.Held(): // the member returned its slices when it left
			r.startAtOwner(ctx, v, f)
		default:
			r.fallBack(f, causeNoOwner)
		}
		return
	}
	if f.returned = r.returning(f); f.returned == nil {
		r.startAtOwner(ctx, v, f)
	}
}

// startAtOwner sends f to its owner, or decides it if that is this member.
func (r *Router) startAtOwner(ctx *link.DeadlineContext, v *routingTable, f *forward) {
	f.table, f.toDecider = v, false
	owner := r.ownerOf(v, f.Partition)
	switch {
	case r.mine(v, f.Partition, r.owners.Clock()):
		r.decideHere(ctx, f)
	case owner != nil && owner.peer != nil:
		r.startAt(ctx, f, owner)
	case v.fenced:
		r.fallBack(f, causeNoLease)
	default:
		f.waits = true // the partition gets its first or its next owner, or this one its lease
	}
}

// decideHere decides f in this process. There is no result if this process may not answer.
func (r *Router) decideHere(limited *link.DeadlineContext, f *forward) {
	at, _ := limited.Deadline()
	ctx, cancel := context.WithDeadline(limited.Context, at) // limited has no timer, which waiting for heirs needs
	defer cancel()
	number(f.Call)
	c, calls := f.Call, []call.Call{*f.Call}
	results := r.local.NewResults(1)
	defer results.Release()
	results.SetSince(0, r.owners.Place(c.Partition).Origin)
	r.decide(ctx, calls, results)
	if len(r.confirm(ctx, calls, results)) > 0 {
		f.waits, f.unanswered = true, true
		return
	}
	f.result = results.Get(0)
}

// number gives a check or a reserve the id of an attempt, by which it can be withdrawn.
func number(c *call.Call) {
	if isWithdrawable(c) && c.Attempt == 0 {
		c.Attempt = requestid.NextAttempt(0)
	}
}

// isWithdrawable reports whether an attempt of a call can be withdrawn.
func isWithdrawable(c *call.Call) bool {
	return (c.Kind == call.Check || c.Kind == call.Reserve) && c.Origin != call.Outbox
}

// startAt sends f to a member that may be its owner.
func (r *Router) startAt(ctx *link.DeadlineContext, f *forward, to *memberConn) {
	f.to = to
	if f.mayBeRefused() {
		if err := to.peer.link.Refuse(); err != nil {
			r.refuse(f, err)
			return
		}
	}
	number(f.Call)
	item := f.Item(false)
	item.Term = r.owners.Place(f.Partition).Term
	f.pending = to.peer.link.Start(ctx, item)
}

// finish waits for the results of calls. It follows redirects, and falls back if an owner
// does not answer. Calls that have to wait for another owner wait together. They do not wait
// for members that have not answered the other calls yet.
func (r *Router) finish(ctx *link.DeadlineContext, forwards []forward) {
	for waits := true; waits; {
		waits = false
		for i := range forwards {
			r.advance(ctx, &forwards[i], !waits)
			waits = waits || forwards[i].waits
		}
		if waits {
			r.bounce(ctx, forwards)
		}
	}
	for i := range forwards {
		r.complete(&forwards[i])
	}
}

// advance continues f until it has a result or has to wait for another owner. If block is
// false, it also returns when f has to wait for an answer.
func (r *Router) advance(ctx *link.DeadlineContext, f *forward, block bool) {
	for !f.waits && (f.pending != nil || f.returned != nil) {
		if !block && (f.pending == nil || !f.pending.Ended()) {
			return
		}
		if f.returned != nil {
			r.awaitReturn(ctx, f)
			continue
		}
		result, err := f.pending.Wait(ctx)
		f.pending = nil
		f.unanswered = f.unanswered || link.MayBeDecided(err)
		if err == nil && code(result) == codes.DeadlineExceeded {
			err = errTooLate
		}
		if err != nil {
			r.retry(ctx, f, err)
			continue
		}
		if to := result.GetRedirect(); to != nil {
			r.follow(ctx, f, to)
		} else {
			r.accept(ctx, f, result)
		}
	}
}

// mayBeCharged reports whether a member may have charged f, whose caller learns of no admission.
func (f *forward) mayBeCharged() bool {
	return f.unanswered && isWithdrawable(f.Call) && !isAdmitted(f.result)
}

// complete makes the result of f the answer to its caller.
func (r *Router) complete(f *forward) {
	if f.bounces > 0 && !f.fellBack {
		r.ownerless.answered(f.Partition, r.owners.Clock())
	}
	if code(f.result) == codes.NotFound && r.mayBeReturning(f) {
		f.result = notReturned()
	}
	if !f.Kind.EndsReservation() || f.Origin == call.Outbox {
		return
	}
	if code(f.result) == codes.NotFound {
		if result := r.endUnknown(f.Call); result != nil {
			f.result = result
		}
	}
	if s := f.result.GetSettlement(); s != nil {
		s.RequestId = f.CallerID() // the owner has another one
	}
}

// errTooLate is the error of a call that came to its owner after its deadline: nothing
// was decided.
var errTooLate = fmt.Errorf("%w: it came to the member too late", link.ErrTimeout)

// accept takes the result of the member that was asked.
func (r *Router) accept(ctx *link.DeadlineContext, f *forward, result *pb.Result) {
	switch {
	case f.toDecider && code(result) == codes.NotFound:
		// The member does not know the reservation any more; the owner may.
		r.startAtOwner(ctx, r.table.Load(), f)
		return
	case f.toDecider && f.Held() && code(result) == codes.Unavailable:
		r.askMakerAgain(ctx, f, result)
		return
	}
	route := routeOf(f.Kind, result)
	if f.Kind == call.Admin && isUnknownCall(result) {
		f.result = server.Failed(grpcstatus.Errorf(codes.FailedPrecondition, "%s, the owner of the key, runs a version without administration: upgrade it", f.to.Name))
		return
	}
	if result.GetError() == nil && route == nil && !isAnswerWithoutRoute(f.Kind, result) || isUnknownCount(f, result) {
		f.unanswered = true // this is no answer to the call: the member has another version
		r.fallBack(f, causeBroken)
		return
	}
	if route != nil && !f.toDecider { // which has a route of its own
		*route = pb.Route_ROUTE_FORWARD
	}
	f.result = result
}

// isAnswerWithoutRoute reports whether result is an answer to a call of kind k, of which no
// answer has a route.
func isAnswerWithoutRoute(k call.Kind, result *pb.Result) bool {
	return k == call.SliceReturn && result.GetSliceEnded() != nil || k == call.Admin && result.GetAdmin() != nil
}

// follow follows a redirect, once. If the owner has changed since f was sent,
// the routing table says where to; if not, the member that was asked does.
func (r *Router) follow(ctx *link.DeadlineContext, f *forward, to *pb.Redirect) {
	r.metrics.redirects.Inc()
	f.unanswered = true // the member may have decided it, and not be the owner any more
	if f.redirected {
		f.waits = true
		return
	}
	f.redirected = true
	now := r.table.Load()
	if f.toDecider || r.target(now, f) != f.to.Member {
		r.startAtOwner(ctx, now, f)
		return
	}
	m := now.member(to.GetOwner())
	if m == nil || m.Member == f.to.Member || m.peer == nil {
		// No member, one that this node does not know of, or this node itself,
		// which does not own the partition by its own routing table.
		f.waits = true
		return
	}
	f.table = now
	r.startAt(ctx, f, m)
}

// target returns the member that f would be sent to now; the zero Member
// if there is none.
func (r *Router) target(v *routingTable, f *forward) Member {
	m := r.ownerOf(v, f.Partition)
	if f.toDecider {
		m = v.member(f.Decider)
	}
	if m == nil {
		return Member{}
	}
	return m.Member
}

// retry goes on with a call that was not answered. If another member would be
// asked now, because the one that was asked leaves, that one is asked, once.
func (r *Router) retry(ctx *link.DeadlineContext, f *forward, err error) {
	if errors.Is(err, link.ErrClosed) || errors.Is(err, link.ErrBroken) {
		if now := r.table.Load(); !f.rerouted && r.target(now, f) != f.to.Member {
			f.rerouted = true
			if f.toDecider {
				r.start(ctx, now, f)
			} else {
				r.startAtOwner(ctx, now, f)
			}
			return
		}
	}
	overloaded := errors.Is(err, link.ErrOverloaded) || errors.Is(err, errTooLate) || link.IsSlow(err) && !link.MayBeDecided(err)
	if overloaded && f.mayBeRefused() {
		r.refuse(f, err)
		return
	}
	if cause, ok := causeOf(err); ok {
		if f.toDecider && f.Held() { // the owner knows it if the slice was returned
			f.makerSilent = true
			r.startAtOwner(ctx, r.table.Load(), f)
			return
		}
		r.fallBack(f, cause)
		return
	}
	f.result = server.Failed(grpcstatus.FromContextError(err).Err()) // the caller has gone
}

// mayBeRefused reports whether f may be refused because its owner is overloaded.
func (f *forward) mayBeRefused() bool {
	switch f.Kind {
	case call.Check, call.Reserve, call.Peek:
	case call.Count:
		if f.Count().GetGiveBack() {
			return false
		}
	default:
		return false
	}
	return !f.Replay && f.Origin != call.Outbox
}

// lateRetry is when a call may be sent again that its owner did not take in time.
const lateRetry = 250 * time.Millisecond

// refuse ends a call that its owner would not answer in time: err is [link.ErrOverloaded],
// or it was not sent in time, or came to the owner too late. It is not decided in
// fallback, whose decisions the owner would have to charge later.
func (r *Router) refuse(f *forward, err error) {
	if r.spendSlice(f) {
		return
	}
	retry := lateRetry
	if e, ok := errors.AsType[*link.OverloadedError](err); ok {
		retry = e.RetryAfter
	}
	f.result = server.Failed(server.Overloaded("the owner of the key is asked more than it answers in time", retry))
}
