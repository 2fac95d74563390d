// SPDX-License-Identifier: Apache-2.0

package link

// breaker decides whether a member is worth asking. It is pure: times are
// arguments, in nanoseconds.
//
// It opens when the member owes answers and gives none: for a whole timeout, or
// for a quarter of it if several calls ran late meanwhile. So callers in more of
// a hurry than the member can be do not open it: that needs silence. It closes
// with the first answer, whichever that is.
type breaker struct {
	timeout int64

	open bool
	// quiet is since when the member owes an answer and has given none. never:
	// it owes none.
	quiet int64
	late  int // calls, since quiet

	probing bool  // a probe is under way
	probeAt int64 // when the next one may start
}

const (
	probeEvery = 250_000_000 // ns
	lateCalls  = 3           // that open the breaker before the timeout
)

func newBreaker(timeout int64) breaker { return breaker{timeout: timeout, quiet: never} }

// owes says that the member was asked something at now.
func (b *breaker) owes(now int64) {
	if b.quiet == never {
		b.quiet = now
	}
}

// heard says that the member answered, and whether it owes more. It returns
// whether that closed the breaker.
func (b *breaker) heard(now int64, owes bool) (closed bool) {
	b.square()
	if owes {
		b.quiet = now
	}
	closed = b.open
	b.open = false
	return closed
}

// square says that nothing is owed: there is nothing in flight.
func (b *breaker) square() { b.quiet, b.late = never, 0 }

// restart counts anew what is owed, from now.
func (b *breaker) restart(now int64) {
	b.late = 0
	if b.quiet != never {
		b.quiet = now
	}
}

// missed says that calls ran late. It returns whether the member is to be given
// up: see trip.
func (b *breaker) missed(now int64, calls int) bool {
	if b.quiet == never {
		return false
	}
	b.late += calls
	hurry := !b.open && b.late >= lateCalls && now-b.quiet >= b.timeout/4
	return hurry || b.silent(now)
}

// silent reports whether an answer has been owed for the whole timeout.
func (b *breaker) silent(now int64) bool {
	return b.quiet != never && now-b.quiet >= b.timeout
}

// trip opens the breaker. It returns false if it was open.
func (b *breaker) trip(now int64) bool {
	b.restart(now)
	if b.open {
		return false
	}
	b.open, b.probeAt = true, now+probeEvery
	return true
}

// admit says whether a call may be sent, and whether it is a probe: then
// probing is to be reset when the call ends.
func (b *breaker) admit(now int64) (admitted, probe bool) {
	if !b.open {
		return true, false
	}
	if b.probing || now < b.probeAt {
		return false, false
	}
	b.probing, b.probeAt = true, now+probeEvery
	return true, true
}
