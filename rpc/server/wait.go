// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
	"github.com/bucketring/bucketring/rpc/internal/call"
)

// A Waiter is a check or a reserve that waits at its owner until a limit has room for it.
type Waiter struct {
	// Call has a request id, and is not changed while it waits.
	Call call.Call
	// Waited is how long it has waited before, at another owner.
	Waited time.Duration
	// MaxWait bounds the whole wait, with Waited. 0: as the request and the policy say.
	MaxWait time.Duration
	// Done gets the result, once: it has one call. Nil means that this member does not decide
	// for the key any more; the call is to be asked again at its next owner. Done is called
	// with locks held: it must not block, nor call the service.
	Done func(*Results)

	arrived  int64            // on the clock of the engine
	place    int64            // in line, when it arrived; 0: it does not wait yet
	class    limiter.Priority // NoPriority: it does not wait, or joined another
	id       line.ID          // 0: it does not wait, or joined another
	first    *Waiter          // the one that it joined
	joined   []*Waiter
	timer    *time.Timer // ends the wait of one that joined; nil: the one that it joined does
	promoted bool        // it has the place of one that it joined, and that has left
	ended    bool        // Done was called, or it has left
}

// errCancelledWait is the error of a call that was cancelled while it waited.
var errCancelledWait = grpcstatus.Error(codes.Canceled, "the call was cancelled while it waited")

// Enqueue decides a call like Do, but if a limit denies it, it waits until it fits or its time
// is over. A repeat of a call that waits, by its id, joins it: they are charged once. A call
// that would wait too long, or for which there is no place, is denied at once.
func (s *Service) Enqueue(w *Waiter) {
	now := s.now()
	w.arrived = now.Mono - int64(max(w.Waited, 0))
	l := s.lines.enter(s, keypath.Root(w.Call.Key), true)
	defer s.lines.leave(l)
	x := s.newScratch()
	if err := x.validate(&w.Call); err != nil {
		l.deliver(w, x, err)
		return
	}
	if err := s.resolve(now, x); err != nil {
		l.deliver(w, x, err)
		return
	}
	if first := l.ids[w.waitingID()]; first != nil {
		l.join(w, first, x)
		return
	}
	l.decideOrWait(now, w, x)
}

func (w *Waiter) waitingID() waitingID { return waitingID{w.Call.Kind, w.Call.Key, w.Call.RequestID} }

// Leave ends the waiting of a call whose caller has gone, after Enqueue has returned. It
// reports whether the call waited: then nothing was charged for it. Otherwise Done has its
// result.
func (s *Service) Leave(w *Waiter) bool {
	l := s.lineOf(w.Call.Key)
	if l == nil {
		return false // all have their results
	}
	defer s.lines.leave(l)
	if w.ended {
		return false
	}
	s.lines.metrics.ended(w.class, waitLeft, 0)
	l.remove(w)
	l.run()
	return true
}

// join has w wait for the result of first, a call with the same id.
func (l *rootLine) join(w, first *Waiter, x *scratch) {
	if !sameRequest(&w.Call, &first.Call) {
		l.deliver(w, x, &limiter.ConflictError{Problem: "the id is that of another request, which waits"})
		return
	}
	if len(first.joined) >= maxJoined {
		if err := l.service.engine.Preview(l.service.now(), &x.request, x.kind == call.Reserve, &x.decision); err != nil {
			l.deliver(w, x, err)
			return
		}
		l.refuse(w, x, x.decision.Binding, line.KeyFull, x.decision.RetryAfter)
		return
	}
	if bound := w.bound(x); bound > 0 {
		left := time.Duration(w.arrived) + bound - time.Duration(l.service.now().Mono)
		w.timer = time.AfterFunc(max(left, 1), func() { l.service.endJoined(w) })
	}
	l.service.release(x)
	w.first, w.place = first, first.place
	first.joined = append(first.joined, w)
}

// bound returns how long a call waits at most, whatever the policy says; 0: nothing else bounds
// it.
func (w *Waiter) bound(x *scratch) time.Duration {
	if w.MaxWait == 0 || x.wait.maxWait > 0 && x.wait.maxWait < w.MaxWait {
		return x.wait.maxWait
	}
	return w.MaxWait
}

// endJoined ends the wait of a call that joined another, and whose own time is over before.
func (s *Service) endJoined(w *Waiter) {
	l := s.lineOf(w.Call.Key)
	if l == nil {
		return
	}
	defer s.lines.leave(l)
	if w.ended || w.first == nil {
		return
	}
	l.remove(w)
	w.first = nil
	l.expire(s.now(), w, 0)
}

// maxJoined is how many repeats of a call may wait with it.
const maxJoined = 16

// sameRequest reports whether two calls ask for the same. A repeat may wait for another time.
func sameRequest(a, b *call.Call) bool {
	return proto.Equal(withoutMaxWait(a), withoutMaxWait(b))
}

// withoutMaxWait returns a copy of the request of a check or a reserve without its time.
func withoutMaxWait(c *call.Call) proto.Message {
	if q := proto.CloneOf(c.Check()); q != nil {
		q.MaxWait = nil
		return q
	}
	q := proto.CloneOf(c.Reserve())
	q.MaxWait = nil
	return q
}

// decide decides a call of the root. It does not overtake those that wait: if it fits, and has to
// go behind them, blocked is true, and the decision is that of [limiter.Engine.Preview].
func (l *rootLine) decide(now limiter.Time, x *scratch) (blocked bool, err error) {
	s := l.service
	if l.line.Len() > 0 && !x.request.Force {
		x.wait.behind = true
		if err := s.engine.Preview(now, &x.request, x.kind == call.Reserve, &x.decision); err != nil {
			return false, err
		}
		d := &x.decision
		if d.Outcome != limiter.Denied && l.line.Blocks(now.Mono, x.classOfPlan(), x.request.Model, d) && !s.engine.Knows(&x.request) {
			return true, nil
		}
	}
	return false, s.decideAlone(now, x)
}

// decideOrWait decides a call, and has it wait if it is denied or has to go behind others.
func (l *rootLine) decideOrWait(now limiter.Time, w *Waiter, x *scratch) {
	x.wait.since = l.service.lines.since(l.partition)
	blocked, err := l.decide(now, x)
	if err != nil || !blocked && x.decision.Outcome != limiter.Denied {
		l.deliver(w, x, err)
		return
	}
	l.arrive(now, w, x)
}

// classOfPlan returns the class of a call that the engine has decided or previewed.
func (x *scratch) classOfPlan() limiter.Priority {
	class, _ := x.plan.Class(x.request.Priority) // an error would have ended the call
	return class
}

// lineCall returns the call for the line. The engine has decided or previewed it.
func (x *scratch) lineCall(arrived int64, maxWait time.Duration) line.Call {
	return line.Call{
		Key: x.request.Key, Model: x.request.Model, Class: x.classOfPlan(), Weight: x.plan.Weight, Arrived: arrived, MaxWait: maxWait,
	}
}

// decideNew decides a call that does not wait, or not yet. If it has to go behind others it is
// denied, with the time until they have gone.
func (l *rootLine) decideNew(now limiter.Time, x *scratch) error {
	blocked, err := l.decide(now, x)
	if !blocked || err != nil {
		return err
	}
	place, refusal := l.line.Arrive(now.Mono, x.lineCall(now.Mono, x.wait.maxWait), &x.decision)
	if refusal == line.NotRefused {
		l.line.Leave(now.Mono, place.ID)
		x.wait.mayWait = !x.wait.noWait
	} else if !x.wait.noWait {
		x.wait.refused = refusalText(refusal)
	}
	x.deny(place.Limit, place.Estimate)
	return nil
}

// deny makes the decision a denial by a limit.
func (x *scratch) deny(limit int, retry time.Duration) {
	d := &x.decision
	d.Outcome, d.Reason, d.GrantedOutputTokens, d.Status = limiter.Denied, limiter.LimitExceeded, 0, limiter.NoStatus
	d.RetryAfter = max(retry, 1)
	if limit >= 0 && limit < len(d.Limits) {
		d.Binding = limit
		d.Limits[limit].Exceeded = true
	}
}

// refusalText is why a call may not wait, as answers say it; "" for what is no news: the limit
// has no queue, or the call can never fit.
func refusalText(r line.Refusal) string {
	if slices.Contains(waitRefusals[:], r) {
		return r.String()
	}
	return ""
}

// arrive has a call wait that was denied, or denies it for good.
func (l *rootLine) arrive(now limiter.Time, w *Waiter, x *scratch) {
	s, d := l.service, &x.decision
	c := x.lineCall(w.arrived, w.bound(x))
	var place line.Place
	refusal := line.Never
	switch {
	case x.wait.noWait:
	case s.lines.calls.Load() >= maxWaiting || int64(l.line.Len()) > maxWaiting-s.lines.calls.Load():
		refusal = line.LineFull
	default:
		place, refusal = l.line.Arrive(now.Mono, c, d)
	}
	if refusal != line.NotRefused {
		retry := place.Estimate
		if d.Outcome == limiter.Denied {
			retry = max(retry, d.RetryAfter)
		}
		l.refuse(w, x, place.Limit, refusal, retry)
		return
	}
	w.id, w.place, w.class = place.ID, int64(place.Ahead)+1, c.Class
	l.calls[w.id], l.ids[w.waitingID()] = w, w
	s.lines.calls.Add(1)
	s.lines.metrics.began(w.class)
	s.release(x)
	l.run()
}

// refuse answers a call that may not wait, or not any longer.
func (l *rootLine) refuse(w *Waiter, x *scratch, limit int, why line.Refusal, retry time.Duration) {
	if d := &x.decision; d.Outcome != limiter.Denied {
		x.deny(limit, retry)
	} else if d.RetryAfter >= 0 && retry > d.RetryAfter {
		d.RetryAfter = retry
	}
	x.wait.refused = refusalText(why)
	if x.wait.refused != "" && w.id == 0 {
		l.service.lines.metrics.refused(why)
	}
	l.deliver(w, x, nil)
}

// cancelWaiting ends the waiting of a call by its id, or of one attempt of it. It reports whether
// one waited.
func (s *Service) cancelWaiting(key, id string, attempt uint64) (waited bool) {
	l := s.lineOf(key)
	if l == nil {
		return false
	}
	defer s.lines.leave(l)
	for _, kind := range []call.Kind{call.Check, call.Reserve} {
		first := l.ids[waitingID{kind, key, id}]
		if first == nil {
			continue
		}
		for _, w := range append([]*Waiter{first}, first.joined...) {
			if attempt != 0 && w.Call.Attempt != attempt {
				continue
			}
			waited = true
			s.lines.metrics.ended(w.class, waitLeft, 0)
			l.remove(w)
			results := s.NewResults(1)
			results.SetError(0, errCancelledWait)
			w.Done(results)
		}
	}
	l.run()
	return waited
}
