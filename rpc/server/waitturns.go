// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
	"github.com/bucketring/bucketring/rpc/internal/call"
)

// run tries those whose turn it is, and sets the timer for the next.
func (l *rootLine) run() {
	for len(l.calls) > 0 {
		now := l.service.now()
		if l.expiry != 0 && now.Mono >= l.expiry { // a lease has ended
			l.expiry = 0
			l.line.FreedAll(now.Mono)
		}
		t := l.line.Next(now.Mono)
		switch t.Kind {
		case line.None:
			l.wakeAt(now.Mono, t.At)
			return
		case line.Expired:
			l.expire(now, l.calls[t.ID], t.Retry)
		case line.Try:
			if !l.try(now, l.calls[t.ID]) {
				return
			}
		}
	}
}

// try decides a call whose turn it is. It returns false if this member does not decide any
// more.
func (l *rootLine) try(now limiter.Time, w *Waiter) bool {
	x, err := l.again(now, w)
	if err == nil {
		x.wait.since = l.service.lines.since(l.partition)
		err = l.service.decideAlone(now, x)
	}
	switch {
	case errors.Is(err, limiter.ErrClosed):
		l.service.release(x)
		l.move()
		return false
	case err != nil:
		l.line.Leave(now.Mono, w.id)
		l.deliver(w, x, err)
	case x.decision.Outcome != limiter.Denied:
		l.line.Admitted(now.Mono, w.id)
		l.deliver(w, x, nil)
	default:
		retry, refusal := l.line.Denied(now.Mono, w.id, &x.decision)
		if refusal == line.NotRefused {
			l.service.release(x)
			return true
		}
		l.refuse(w, x, -1, refusal, retry)
	}
	return true
}

// again returns a scratch with the request of a call, by the policy of now.
func (l *rootLine) again(now limiter.Time, w *Waiter) (*scratch, error) {
	x := l.service.newScratch()
	if err := x.validate(&w.Call); err != nil {
		return x, err
	}
	return x, l.service.resolve(now, x)
}

// expire answers a call whose time is over, and which has left the line.
func (l *rootLine) expire(now limiter.Time, w *Waiter, retry time.Duration) {
	x, err := l.again(now, w)
	if err == nil {
		err = l.service.engine.Preview(now, &x.request, x.kind == call.Reserve, &x.decision)
	}
	if err != nil {
		l.deliver(w, x, err)
		return
	}
	if w.promoted { // the time that is over was that of the call which it joined
		w.promoted = false
		if bound := int64(w.bound(x)); bound == 0 || now.Mono < w.arrived+bound {
			l.forget(w)
			w.id = 0
			l.decideOrWait(now, w, x)
			return
		}
	}
	l.refuse(w, x, x.decision.Binding, line.NotRefused, max(retry, x.decision.RetryAfter))
}

// wakeAt has run called at a time, or when a lease of the partition ends before.
func (l *rootLine) wakeAt(now, at int64) {
	s := l.service
	l.expiry = s.engine.NextExpiry(l.root)
	at = min(at, l.expiry)
	if l.at != 0 && l.at <= at && l.at > now {
		return
	}
	l.at = at
	after := time.Duration(max(at-now, 1))
	if l.timer != nil {
		l.timer.Reset(after)
		return
	}
	l.timer = time.AfterFunc(after, func() { s.wakeLine(l.root) })
}

// wakeLine runs the line of a root, if it has one, when its timer fires.
func (s *Service) wakeLine(root string) {
	l := s.lines.enter(s, root, false)
	if l == nil {
		return
	}
	defer s.lines.leave(l)
	l.at = 0
	l.run()
}

// remove takes a call out of the line. One that joined it takes its place.
func (l *rootLine) remove(w *Waiter) {
	w.ended = true
	if first := w.first; first != nil {
		for i, other := range first.joined {
			if other == w {
				first.joined = append(first.joined[:i:i], first.joined[i+1:]...)
			}
		}
		return
	}
	if w.id == 0 {
		return
	}
	if len(w.joined) > 0 {
		next := w.joined[0]
		next.first, next.id, next.class, next.joined = nil, w.id, w.class, w.joined[1:]
		next.promoted = true
		for _, other := range next.joined {
			other.first = next
		}
		l.calls[w.id], l.ids[w.waitingID()] = next, next
		return
	}
	l.line.Leave(l.service.now().Mono, w.id)
	l.forget(w)
}

// forget forgets a call that has left the line.
func (l *rootLine) forget(w *Waiter) {
	delete(l.calls, w.id)
	delete(l.ids, w.waitingID())
	l.service.lines.calls.Add(-1)
	l.service.lines.metrics.gone(w.class)
}

// deliver gives a call its result, and to those that joined it theirs.
func (l *rootLine) deliver(w *Waiter, x *scratch, err error) {
	s := l.service
	if w.id != 0 {
		l.forget(w)
	}
	now := s.now()
	joined := w.joined
	w.joined, w.ended = nil, true
	if errors.Is(err, limiter.ErrClosed) {
		s.release(x)
		w.Done(nil)
		for _, j := range joined {
			j.ended = true
			j.Done(nil)
		}
		return
	}
	results := s.NewResults(1)
	results.SetSince(0, x.wait.since)
	if err != nil {
		s.release(x)
		results.fail(0, err)
	} else {
		x.wait.mayWait = false
		if w.place > 0 {
			x.wait.waited, x.wait.place = time.Duration(now.Mono-w.arrived), w.place
			outcome := waitAdmitted
			if x.decision.Outcome == limiter.Denied {
				outcome = waitDenied
			}
			s.lines.metrics.ended(w.class, outcome, x.wait.waited)
		}
		results.list[0].scratch = x
		s.countDecision(x)
	}
	w.Done(results)
	for _, j := range joined {
		l.repeat(now, j)
	}
}

// repeat goes on with a call that joined another which has its result. If that was denied,
// because its time was over, the repeat may have time left: then it waits on its own.
func (l *rootLine) repeat(now limiter.Time, w *Waiter) {
	w.first = nil
	if w.timer != nil {
		w.timer.Stop()
	}
	x, err := l.again(now, w)
	if err != nil {
		l.deliver(w, x, err)
		return
	}
	if next := l.ids[w.waitingID()]; next != nil { // another repeat waits already
		l.join(w, next, x)
		return
	}
	l.decideOrWait(now, w, x) // if the other was admitted, the id is known
}

// move ends the waiting of all calls, because this member does not decide for them any more.
func (l *rootLine) move() {
	for id, w := range l.calls {
		l.line.Leave(l.service.now().Mono, id)
		l.service.lines.metrics.ended(w.class, waitMoved, 0)
		l.deliver(w, l.service.newScratch(), limiter.ErrClosed)
	}
}
