// SPDX-License-Identifier: Apache-2.0

package bench

import "time"

const (
	// minSleep is the shortest sleep of the pacer. Calls that are due within it are
	// dispatched together, which bounds the cost of a high rate.
	minSleep = 50 * time.Microsecond
	// maxSleep is the longest sleep, so that a stop is noticed.
	maxSleep = 10 * time.Millisecond
	// If sleepCalls calls are due within coarseSleep, the pacer sleeps until the last of
	// them is. Otherwise it would sleep so often that this costs more than to send them.
	coarseSleep = 250 * time.Microsecond
	sleepCalls  = 50
)

// sleeper sleeps until a given time, more precisely than timers: those of an idle
// process are up to a millisecond late on some systems.
type sleeper struct {
	start time.Time
	stop  <-chan struct{}
	// useTimer is true if the system has no precise sleep, or if time is not the
	// system's, as in a synctest bubble.
	useTimer bool
}

// until sleeps until t after start. It returns the time since start, and false if
// stop was closed earlier.
func (s *sleeper) until(t time.Duration) (now time.Duration, ok bool) {
	for {
		now = time.Since(s.start)
		if now >= t {
			return now, true
		}
		select {
		case <-s.stop:
			return now, false
		default:
		}
		if s.useTimer || !nanosleep(min(max(t-now, minSleep), maxSleep)) {
			return s.untilByTimer(t)
		}
		if time.Since(s.start) == now {
			s.useTimer = true // the clock did not advance: it is not the system's
		}
	}
}

// untilByTimer is until with a timer.
func (s *sleeper) untilByTimer(t time.Duration) (now time.Duration, ok bool) {
	timer := time.NewTimer(t - time.Since(s.start))
	defer timer.Stop()
	select {
	case <-timer.C:
		return time.Since(s.start), true
	case <-s.stop:
		return time.Since(s.start), false
	}
}
