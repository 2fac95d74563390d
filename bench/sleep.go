// SPDX-License-Identifier: Apache-2.0

package bench

import "time"

const (
	// shortest is the least that the pacer sleeps: calls that are due within it
	// are handed out together. It bounds what a high rate costs.
	shortest = 50 * time.Microsecond
	// longest is the most that it sleeps at once, so that it notices a stop.
	longest = 10 * time.Millisecond
)

// sleeper waits for moments, more exactly than timers do: those of an idle
// process are up to a millisecond late on some systems.
type sleeper struct {
	base time.Time
	stop <-chan struct{}
	// clocked: the clock is not the system's (a test's is not), or the system has
	// no better sleep: only timers agree with it.
	clocked bool
}

// until returns the time since base when t has come, or before it if stop is
// closed.
func (s *sleeper) until(t time.Duration) (now time.Duration, ok bool) {
	for {
		now = time.Since(s.base)
		if now >= t {
			return now, true
		}
		select {
		case <-s.stop:
			return now, false
		default:
		}
		if s.clocked || !nap(min(max(t-now, shortest), longest)) {
			return s.timer(t)
		}
		if time.Since(s.base) == now {
			s.clocked = true // a nap takes time, but not by this clock
		}
	}
}

// timer is until by a timer.
func (s *sleeper) timer(t time.Duration) (now time.Duration, ok bool) {
	timer := time.NewTimer(t - time.Since(s.base))
	defer timer.Stop()
	select {
	case <-timer.C:
		return time.Since(s.base), true
	case <-s.stop:
		return time.Since(s.base), false
	}
}
