// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/await"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// waiting is a check or a reserve that waits in line at its owner, whichever member that is
// while it waits. If it is another one, the call waits there, by a stream of package await. If
// the owner changes, the call is asked again, as one that has waited already.
type waiting struct {
	router *Router
	call   call.Call
	began  time.Duration // when it began to wait, on the clock of the owners
	until  time.Duration // when it has waited as long as it may
	// fromMember: another member asks, which asks the next owner itself.
	fromMember bool
	done       func(*pb.Result) // gets the result, once, unless the caller has gone

	gone     chan struct{} // closed when the caller has gone, with mu locked
	restarts int           // how often it was asked again; of one goroutine at a time

	mu     sync.Mutex  // also guards call.Attempt
	turn   int         // how often it began to wait
	over   bool        // this turn is: its result has come, or it has left
	at     *peer       // the member where it waits; nil: this one, or none
	leave  func()      // where it waits now
	timer  *time.Timer // ends a turn at another member
	asked  bool        // another member may have decided call.Attempt
	missed []uint64    // attempts that another member may have decided, and whose answers did not come
	result *pb.Result  // that the caller got
	denial *pb.Result
}

const (
	// waitMargin is what is left of the deadline of a caller for its answer: an eighth, and
	// this at most.
	waitMargin = 100 * time.Millisecond
	// againPause is between two attempts to find the next owner of a call that waits.
	// It doubles, up to maxAgainPause.
	againPause    = 100 * time.Millisecond
	maxAgainPause = time.Second
)

// newWaiting returns a call that wants to wait, and has waited for some time elsewhere. left is
// what is left of the deadline of its caller, less what its answer takes; 0: it has none.
func (r *Router) newWaiting(c *call.Call, waited, left time.Duration) *waiting {
	now := r.owners.Clock()
	w := &waiting{router: r, call: *c, began: now - max(waited, 0), gone: make(chan struct{})}
	w.call.TakesSlice, w.call.Expired, w.call.Unanswered, w.call.Trace = false, false, false, nil
	if w.call.RequestID == "" {
		w.call.RequestID = r.local.NewID()
	}
	number(&w.call)
	if c.Unanswered {
		w.miss()
	}
	bound := time.Duration(limiter.MaxMaxWait)
	if maxWait := c.MaxWait(); maxWait != nil {
		bound = min(bound, maxWait.AsDuration())
	}
	w.until = w.began + bound
	if left > 0 {
		w.until = min(w.until, now+left)
	}
	return w
}

// beforeDeadline returns how long a call may wait whose caller waits for so long.
func beforeDeadline(left time.Duration) time.Duration {
	return max(left-min(left/8, waitMargin), 1)
}

// ask has the call wait at the owner of its key. It does not block.
func (w *waiting) ask() {
	r, c := w.router, &w.call
	v, now := r.table.Load(), r.owners.Clock()
	if r.mine(v, c.Partition, now) {
		w.askHere(now)
		return
	}
	owner := r.ownerOf(v, c.Partition)
	switch {
	case w.fromMember:
		w.end(redirectTo(owner))
	case owner == nil || owner.peer == nil:
		go w.again()
	default:
		w.askMember(owner, now)
	}
}

// begin begins another turn of waiting, at this member or at another one, where it ends after a
// time at the latest.
func (w *waiting) begin(at *peer, after time.Duration) (turn int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn++
	w.over, w.at, w.leave = false, at, nil
	if turn = w.turn; at != nil {
		w.asked = true
		w.timer = time.AfterFunc(after, func() { w.silent(turn) })
		w.router.away.add(w)
	}
	return turn
}

// askHere has the call wait at this member.
func (w *waiting) askHere(now time.Duration) {
	turn := w.begin(nil, 0)
	at := &server.Waiter{
		Call: w.call, Waited: now - w.began, MaxWait: max(w.until-w.began, 1),
		Done: func(results *server.Results) { go w.decided(results) },
	}
	w.router.local.Enqueue(at)
	w.setLeave(turn, func() { w.router.local.Leave(at) })
	if r := w.router; !r.mine(r.table.Load(), w.call.Partition, r.owners.Clock()) {
		r.moveWaiting() // another member is the owner since
	}
}

// askMember has the call wait at another member.
func (w *waiting) askMember(owner *memberConn, now time.Duration) {
	item := w.call.Item(false)
	item.Term = w.router.owners.Place(w.call.Partition).Term
	item.WaitedNanos, item.TimeoutNanos = int64(now-w.began), int64(max(w.until-now, 1))
	turn := w.begin(owner.peer, max(w.until-now, 0)+w.router.timeout)
	w.setLeave(turn, owner.peer.waits.Start(item, func(result *pb.Result, err error) { go w.answered(turn, result, err) }))
	if w.hasGone() {
		if w.endTurn(turn) { // callerGone did not see this turn
			w.miss()
			w.withdraw(w.missedAttempts())
		}
		return
	}
	w.followOwner(w.router.table.Load()) // it may have changed before the turn began
}

// setLeave remembers how to end the waiting, or ends it if the turn is over already, or the
// caller has gone.
func (w *waiting) setLeave(turn int, leave func()) {
	w.mu.Lock()
	ended := w.hasGone() || w.turn != turn || w.over
	if !ended {
		w.leave = leave
	}
	w.mu.Unlock()
	if ended {
		leave()
	}
}

// silent ends a turn at a member that does not say in time that the time of the call is over.
func (w *waiting) silent(turn int) {
	if !w.leaveTurn(turn) {
		return
	}
	w.miss()
	result := w.lastDenial()
	w.addWaited(result, w.router.owners.Clock())
	w.end(result)
}

// endTurn ends a turn at another member. It reports whether it had not ended before: then the
// call goes on with the goroutine that ended it.
func (w *waiting) endTurn(turn int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.turn != turn || w.over {
		return false
	}
	w.over, w.at = true, nil
	w.timer.Stop()
	w.router.away.remove(w)
	return true
}

// leaveTurn is endTurn for a member that has not answered: the call leaves there.
func (w *waiting) leaveTurn(turn int) bool {
	w.mu.Lock()
	leave := w.leave
	w.mu.Unlock()
	if !w.endTurn(turn) {
		return false
	}
	if leave != nil { // else setLeave does it
		leave()
	}
	return true
}

// followOwner has a call that waits at a member asked again if another one is the owner of its
// key now: a member that cannot be reached would not say so.
func (w *waiting) followOwner(v *routingTable) {
	w.mu.Lock()
	turn, at := w.turn, w.at
	w.mu.Unlock()
	if at == nil {
		return
	}
	owner := w.router.ownerOf(v, w.call.Partition)
	if owner == nil || owner.peer == at || !w.leaveTurn(turn) {
		return
	}
	w.newAttempt()
	go w.moved()
}

// decided takes the result of this member.
func (w *waiting) decided(results *server.Results) {
	r := w.router
	if results == nil {
		w.moved()
		return
	}
	defer results.Release()
	calls := []call.Call{w.call}
	if unconfirmed := r.confirm(context.Background(), calls, results); len(unconfirmed) > 0 {
		w.miss() // the next owner may have what was charged
		w.moved()
		return
	}
	w.end(results.Get(0))
}

// answered takes what another member answers in a turn.
func (w *waiting) answered(turn int, result *pb.Result, err error) {
	if !w.endTurn(turn) {
		return
	}
	switch {
	case errors.Is(err, await.ErrFull), grpcstatus.Code(err) == codes.Unimplemented, // by a member of an earlier version
		err == nil && code(result) == codes.ResourceExhausted:
		w.end(w.lastDenial())
		return
	case err == nil && code(result) == codes.Canceled: // somebody cancelled it by its id
		w.end(result)
		return
	case err != nil, result.GetRedirect() != nil, isUnavailable(result):
		if err == nil || await.MayBeDecided(err) {
			w.newAttempt() // the member may withdraw this one
		}
		w.moved()
		return
	}
	if route := routeOf(w.call.Kind, result); route != nil {
		*route = pb.Route_ROUTE_FORWARD
	}
	w.end(result)
}
