// SPDX-License-Identifier: Apache-2.0

package link

import "time"

// Events are called without locks held, by any goroutine of the link or of its
// callers, and must return quickly. Nil fields are not called.
type Events struct {
	Batch  func(items int)            // a batch was sent
	Failed func(err error, calls int) // calls ended without an answer, after they were started
	// Refused reports each call that was refused because of overload, so it must be
	// very quick. Failed does not report these calls.
	Refused func()
	// Overloaded is called while calls are refused, at most once a minute.
	Overloaded func(Overload)
	// Breaker reports that the breaker opened or closed. Calls do not overlap, and
	// the last one has the current state.
	Breaker func(open bool)
}

// overloadInterval is the least time between two calls of Events.Overloaded.
const overloadInterval = time.Minute

// Overload says why calls are refused.
type Overload struct {
	Refused   uint64        // calls, since it was said last
	Throttled bool          // the member refuses calls itself
	Queued    int           // calls
	Rate      int64         // of answers, per second
	RoundTrip time.Duration // of batches
}

// event is reported when the lock is released.
type event struct {
	err      error
	calls    int
	breaker  bool // it opened or closed
	overload *Overload
	refused  int // calls, after they were started
}

func (l *Link) recordFailureLocked(err error, calls int) {
	if calls > 0 && l.o.Events.Failed != nil {
		l.mu.events = append(l.mu.events, event{err: err, calls: calls})
	}
}

func (l *Link) recordBreakerLocked() {
	if l.o.Events.Breaker != nil {
		l.mu.events = append(l.mu.events, event{breaker: true})
	}
}

// unlock releases the lock and reports the events recorded while it was held. It also
// updates what Refuse does, since that depends on all that the lock guards.
func (l *Link) unlock() {
	if l.refusesLocked() {
		l.updateRefusalsLocked(l.now())
	}
	events := l.mu.events
	l.mu.events = nil
	l.mu.Unlock()
	for _, e := range events {
		switch {
		case e.breaker:
			l.reportBreaker()
		case e.refused > 0:
			for range e.refused {
				l.o.Events.Refused()
			}
		case e.overload != nil:
			l.o.Events.Overloaded(*e.overload)
		default:
			l.o.Events.Failed(e.err, e.calls)
		}
	}
}

// reportBreaker reads the state again: two goroutines that saw it change may
// arrive in either order.
func (l *Link) reportBreaker() {
	l.reported.Lock()
	defer l.reported.Unlock()
	l.mu.Lock()
	open := l.mu.breaker.open
	l.mu.Unlock()
	if open != l.reported.open {
		l.reported.open = open
		l.o.Events.Breaker(open)
	}
}
