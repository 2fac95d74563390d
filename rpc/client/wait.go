// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/internal/await"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A call is asked first as if nobody could wait, so that one that fits costs what it did. If it
// is denied and may wait, it is sent again with the same request id by a stream of its owner,
// which answers it when it is admitted or its time is over. If the stream ends, or that member
// is not the owner any more, the call is asked as at first, which finds the next owner, and
// waits there with what is left of its time.

// Between two attempts to find the owner of a call that waits there is a pause, twice as long
// each time. It is short again after a call has waited for calmWait.
const (
	minWaitPause = 20 * time.Millisecond
	maxWaitPause = time.Second
	calmWait     = time.Second
)

// waiting is a call that was denied and waits.
type waiting struct {
	client *Client
	call   *decisionCall
	key    string
	again  func() error  // asks the call as at first
	total  time.Duration // that the call may wait; MaxMaxWait: as long as the policy lets it
	asked  bool          // total is not MaxMaxWait because the caller or its context says so
	began  time.Time
	// until is when the client stops asking: no limit lets the call wait for longer.
	until  time.Time
	denial Decision // the last one
	pause  time.Duration
}

// waitForCheck has a check that was denied wait, if it may.
func (c *Client) waitForCheck(ctx context.Context, w *checkCall, f callFields, maxWait *time.Duration) error {
	return c.wait(ctx, &w.decisionCall, f.key, maxWait, func() error {
		return ask(ctx, c, checkAtOnce, f, &w.request, w)
	})
}

// waitForReserve is like waitForCheck.
func (c *Client) waitForReserve(ctx context.Context, w *reserveCall, f callFields, maxWait *time.Duration) error {
	return c.wait(ctx, &w.decisionCall, f.key, maxWait, func() error {
		return ask(ctx, c, reserveAtOnce, f, &w.request, w)
	})
}

// wait has a call that was denied wait, if it may, and sets its answer. The error is that of
// the call.
func (c *Client) wait(ctx context.Context, call *decisionCall, key string, maxWait *time.Duration, again func() error) error {
	if maxWait != nil && *maxWait == 0 || ctx.Err() != nil || !call.isWaitable() {
		return nil
	}
	w := &waiting{client: c, call: call, key: key, again: again, total: MaxMaxWait, began: time.Now()}
	if maxWait != nil {
		w.total, w.asked = min(w.total, *maxWait), true
	}
	if at, limited := ctx.Deadline(); limited {
		left := time.Until(at)
		w.total, w.asked = min(w.total, left-waitMargin(left)), true
	}
	if w.total <= 0 {
		return nil
	}
	w.until = w.began.Add(min(w.total, longestWait(call.answer.Limits)))
	for {
		w.denial = call.answer
		if ended, err := w.awaitOnce(ctx); ended {
			return err
		}
		if ended, err := w.askAgain(ctx); ended {
			return err
		}
	}
}

// awaitOnce has the call wait by one stream. If it has not ended then, it is to be asked again.
func (w *waiting) awaitOnce(ctx context.Context) (ended bool, err error) {
	c, began := w.client, time.Now()
	waited := began.Sub(w.began)
	item := w.item(ctx, waited)
	n := c.waitNode(w.key)
	// The member ends the wait; this only ends one that it forgets, or at a member that is not
	// the owner any more and may not be able to say so.
	limited, cancel := context.WithDeadline(ctx, w.until.Add(c.timeout))
	defer cancel()
	limited, move := context.WithCancelCause(limited)
	defer move(nil)
	if c.ring != nil {
		defer c.ring.followOwner(w.key, n, move)()
	}
	result, err := n.waits.Ask(limited, item)
	if c.ring != nil && err != nil && await.MayBeDecided(err) {
		w.call.tried.add(item)
	}
	if time.Since(began) >= calmWait {
		w.pause = 0
	}
	switch {
	case err == nil:
		return w.take(n, item, result, began)
	case errors.Is(ctx.Err(), context.Canceled):
		return true, ctx.Err()
	case errors.Is(context.Cause(limited), errOwnerChanged):
		return false, nil
	case limited.Err() != nil:
		w.giveUp(time.Since(w.began), "")
		return true, nil
	case errors.Is(err, await.ErrFull):
		w.giveUp(waited, clientFull)
		return true, nil
	case status.Code(err) == codes.Unimplemented: // a node of an earlier version
		w.giveUp(waited, "")
		return true, nil
	}
	return false, nil
}

// take takes what a member answered to a call that waited from a time.
func (w *waiting) take(n *node, item *pb.Item, result *pb.Result, began time.Time) (ended bool, err error) {
	waited := time.Duration(item.GetWaitedNanos())
	switch r := result.GetResult().(type) {
	case *pb.Result_Decision:
		n.setHealthy(true)
		if err := w.call.setAnswer(r.Decision); err != nil {
			return true, err
		}
		d := &w.call.answer
		if !d.Replayed { // the lease of a reservation began when it was admitted
			w.call.leasedFrom = began.Add(max(d.Waited-waited, 0))
		}
		d.Waited = max(d.Waited, waited) // also where no owner has counted
		return true, nil
	case *pb.Result_Error:
		err := itemStatus(r.Error)
		switch {
		case retryable(err):
			w.unanswered(item)
			return false, nil
		case status.Code(err) == codes.ResourceExhausted: // nothing was decided
			w.giveUp(waited, clientFull)
			return true, nil
		}
		return true, itemError(r.Error, err)
	case *pb.Result_Redirect:
		if w.client.ring != nil {
			w.client.ring.reportStale(n)
		}
	}
	w.unanswered(item)
	return false, nil
}

// unanswered records that the item may have been decided.
func (w *waiting) unanswered(item *pb.Item) {
	if w.client.ring != nil { // else nobody withdraws it
		w.call.tried.add(item)
	}
}

// clientFull is why a call does not wait if as many of this client do as may.
const clientFull = "client_full"

// giveUp makes the last denial the answer.
func (w *waiting) giveUp(waited time.Duration, refused string) {
	d := &w.call.answer
	*d, w.call.granted = w.denial, 0
	d.Waited, d.WaitRefused = waited, refused
}

// askAgain asks the call as at first until it is answered, or its time is over. If it has not
// ended then, it may wait.
func (w *waiting) askAgain(ctx context.Context) (ended bool, err error) {
	var failed error
	for {
		pause := w.pause
		w.pause = min(max(2*w.pause, minWaitPause), maxWaitPause)
		if busy, ok := errors.AsType[*OverloadedError](failed); ok {
			pause = max(pause, busy.RetryAfter)
		}
		if pause > 0 {
			pause = pause*3/4 + rand.N(pause/2)
		}
		if time.Until(w.until) <= pause {
			if failed == nil {
				w.giveUp(time.Since(w.began), "")
			}
			return true, failed
		}
		if pause > 0 && !sleep(ctx, pause) && errors.Is(ctx.Err(), context.Canceled) {
			return true, ctx.Err()
		}
		w.call.batched = false
		sent := time.Now()
		failed = w.again()
		switch {
		case failed == nil:
			if d := &w.call.answer; d.Allowed() || d.Reason != OwnerUnreachable && d.Route != Fallback {
				if !d.Replayed {
					w.call.leasedFrom = sent
				}
				d.Waited = sent.Sub(w.began)
				return !w.call.isWaitable(), nil
			}
			w.denial = w.call.answer
		case !errors.Is(failed, ErrUnreachable) && !errors.Is(failed, ErrOverloaded):
			return true, failed
		}
	}
}

// item returns the item of a call that has waited for some time already.
func (w *waiting) item(ctx context.Context, waited time.Duration) *pb.Item {
	item := &pb.Item{WaitedNanos: int64(waited), Trace: w.call.item.GetTrace()}
	var maxWait *durationpb.Duration
	if w.asked {
		maxWait = durationpb.New(w.total) // with what the call has waited already
	}
	switch q := w.call.item.GetCall().(type) { // copies: a stream may still have an item when its call has ended
	case *pb.Item_Check:
		check := proto.CloneOf(q.Check)
		check.MaxWait = maxWait
		item.Call = &pb.Item_Check{Check: check}
	case *pb.Item_Reserve:
		reserve := proto.CloneOf(q.Reserve)
		reserve.MaxWait = maxWait
		item.Call = &pb.Item_Reserve{Reserve: reserve}
	}
	if at, limited := ctx.Deadline(); limited {
		item.TimeoutNanos = max(int64(time.Until(at)), 1)
	}
	if w.client.ring != nil {
		w.call.tried.number(item)
	}
	return item
}

// waitNode returns the node at which a call waits: the owner of the key, or one that has it
// wait there.
func (c *Client) waitNode(key string) *node {
	var extra []*node
	if c.ring != nil {
		if m := c.ring.view.Load().owner(key); m != nil && m.direct() {
			return m.peer.node
		}
		extra = c.ring.extraNodes()
	}
	return pick(c.next.Add(1), c.seeds, extra)
}

// errOwnerChanged ends the waiting at a member because another one is the owner of the key.
var errOwnerChanged = errors.New("another member is the owner")

// awayCalls are the calls that wait at the owners of their keys. They are safe for concurrent
// use.
type awayCalls struct {
	mu   sync.Mutex
	list map[*awayCall]struct{}
}

// awayCall is a call that waits at the owner of its key.
type awayCall struct {
	key  string
	at   *node
	move context.CancelCauseFunc
}

// followOwner calls move with errOwnerChanged once another member owns the key of a call that
// waits at n, until forget is called. If n is not the owner now, it follows the owner itself.
func (w *ringWatcher) followOwner(key string, n *node, move context.CancelCauseFunc) (forget func()) {
	if m := w.view.Load().owner(key); m == nil || m.peer == nil || m.peer.node != n {
		return func() {}
	}
	a := &awayCall{key, n, move}
	w.away.mu.Lock()
	if w.away.list == nil {
		w.away.list = map[*awayCall]struct{}{}
	}
	w.away.list[a] = struct{}{}
	w.away.mu.Unlock()
	a.follow(w.view.Load()) // it may have changed before
	return func() {
		w.away.mu.Lock()
		defer w.away.mu.Unlock()
		delete(w.away.list, a)
	}
}

func (a *awayCall) follow(v *view) {
	if m := v.owner(a.key); m != nil && (m.peer == nil || m.peer.node != a.at) {
		a.move(errOwnerChanged)
	}
}

// moveWaiting has the calls asked again that wait at members which are not the owners any more.
func (w *ringWatcher) moveWaiting(v *view) {
	w.away.mu.Lock()
	defer w.away.mu.Unlock()
	for a := range w.away.list {
		a.follow(v)
	}
}

// openWaits opens a stream for calls that wait.
func (n *node) openWaits(ctx context.Context) (await.Stream, error) { return n.api.Wait(ctx) }
