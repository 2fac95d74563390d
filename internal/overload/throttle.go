// SPDX-License-Identifier: Apache-2.0

// Package overload keeps what is sent near what can be answered. It is pure: times are
// arguments, in nanoseconds since any fixed moment, and nothing here locks.
package overload

import "time"

// Throttle keeps a sender from asking a receiver for much more than it answers, as
// clients do in chapter 21 of "Site Reliability Engineering" (Beyer et al., 2016). To
// send what will be refused costs both sides nearly as much as an answer. Where the book
// refuses with a probability, a Throttle spaces what is sent, so that a change shows
// within an interval, and no random numbers are needed.
//
// It counts what was answered and refused in each interval of 100 ms. After an interval
// with refusals it admits five quarters of the answers per interval, evenly spaced: the
// excess finds out when the receiver has more room. After one without refusals it admits
// twice the answers, and after one in which nothing was held back, everything.
//
// The zero value admits everything. A Throttle is not safe for concurrent use.
type Throttle struct {
	ends              int64 // of the interval
	answered, refused int64 // in it
	held              int64 // not admitted in it

	gap  int64 // between two calls; 0: everything is admitted
	next int64 // when the next call would be on time; bursts may be ahead of it
}

const (
	throttleInterval = int64(100 * time.Millisecond)
	// throttleBurst is how far ahead of an even spacing calls may be.
	throttleBurst = int64(10 * time.Millisecond)
	// throttleLeast is the least number of calls that are admitted in an interval.
	throttleLeast = 8
)

// Admit reports whether to send a call now. If not, retry is how long it takes until one
// more would be admitted.
func (t *Throttle) Admit(now int64) (admitted bool, retry time.Duration) {
	t.advance(now)
	if t.gap == 0 {
		return true, 0
	}
	t.next = max(t.next, now)
	if ahead := t.next - now; ahead > throttleBurst {
		t.held++
		return false, time.Duration(ahead - throttleBurst)
	}
	t.next += t.gap
	return true, 0
}

// Full reports whether Admit would not admit a call, and counts that call as held back
// then. If it reports false, nothing has changed.
func (t *Throttle) Full(now int64) (retry time.Duration, full bool) {
	t.advance(now)
	if t.gap == 0 || t.next-now <= throttleBurst {
		return 0, false
	}
	t.held++
	return time.Duration(t.next - now - throttleBurst), true
}

// FullUntil returns until when Admit would admit nothing, as far as is known now; 0 if it
// admits a call now. A caller that holds calls back until then says so with Held.
func (t *Throttle) FullUntil(now int64) int64 {
	t.advance(now)
	if t.gap == 0 || t.next-now <= throttleBurst {
		return 0
	}
	return min(t.next-throttleBurst, t.ends)
}

// Held records calls that were held back without asking Admit or Full.
func (t *Throttle) Held(calls int64) { t.held += calls }

// Answered records calls that were answered, whatever the answer is.
func (t *Throttle) Answered(now int64, calls int) {
	t.advance(now)
	t.answered += int64(calls)
}

// Refused records calls that the receiver refused because it is overloaded.
func (t *Throttle) Refused(now int64, calls int) {
	t.advance(now)
	t.refused += int64(calls)
}

// Limiting reports whether less than everything is admitted.
func (t *Throttle) Limiting(now int64) bool {
	t.advance(now)
	return t.gap != 0
}

// advance begins a new interval if the last one is over.
func (t *Throttle) advance(now int64) {
	if now < t.ends {
		return
	}
	switch idle := now-t.ends >= throttleInterval; {
	case idle || t.refused == 0 && t.held == 0:
		t.gap = 0
	case t.refused == 0:
		t.gap = throttleInterval / max(2*t.answered, throttleLeast)
	default:
		t.gap = throttleInterval / max(t.answered+t.answered/4, throttleLeast)
	}
	t.answered, t.refused, t.held = 0, 0, 0
	t.ends = now + throttleInterval
}
