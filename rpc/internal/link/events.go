// SPDX-License-Identifier: Apache-2.0

package link

// Events are called without locks held, by whichever goroutine noticed, and
// must return soon. Nil fields are not called.
type Events struct {
	Batch   func(items int)            // was sent
	Failed  func(err error, calls int) // calls ended without an answer
	Breaker func(open bool)            // one call at a time; the last one is true
}

// note is an event that waits for the lock to be released.
type note struct {
	err     error
	calls   int
	breaker bool // changed
}

// noteLocked remembers that calls failed.
func (l *Link) noteLocked(err error, calls int) {
	if calls > 0 && l.o.Events.Failed != nil {
		l.mu.notes = append(l.mu.notes, note{err: err, calls: calls})
	}
}

// noteBreakerLocked remembers that the breaker opened or closed.
func (l *Link) noteBreakerLocked() {
	if l.o.Events.Breaker != nil {
		l.mu.notes = append(l.mu.notes, note{breaker: true})
	}
}

// unlock releases the lock and reports what was noted while it was held.
func (l *Link) unlock() {
	notes := l.mu.notes
	l.mu.notes = nil
	l.mu.Unlock()
	for _, n := range notes {
		if n.breaker {
			l.tellBreaker()
		} else {
			l.o.Events.Failed(n.err, n.calls)
		}
	}
}

// tellBreaker reports the state of the breaker as it is now: two goroutines that
// saw it change may come here in either order.
func (l *Link) tellBreaker() {
	l.told.Lock()
	defer l.told.Unlock()
	l.mu.Lock()
	open := l.mu.breaker.open
	l.mu.Unlock()
	if open != l.told.open {
		l.told.open = open
		l.o.Events.Breaker(open)
	}
}
