// SPDX-License-Identifier: Apache-2.0

package link

import (
	"math"
	"time"
)

// admission decides whether an ordinary call may join the queue of a link, and how many
// calls a batch may have. It is pure: times are arguments, in nanoseconds.
//
// A queue that only absorbs bursts is useful; one that never empties adds delay to every
// call and answers none of them sooner (Nichols and Jacobson, "Controlling Queue Delay",
// ACM Queue 2012). So admission looks at the least length of the queue in intervals of
// 100 ms. At first the queue may hold a burst of 4,096 calls. If it never came down to
// half of what 20 ms of answers take away, its bound is halved, and calls beyond the bound
// are refused as they arrive. The bound grows if batches took all of the queue although
// calls had been refused, since then it held less than the link could send, and it doubles
// after each interval in which none was refused.
//
// With so short a queue the oldest call goes first: a newest-first order (Maurer, "Fail at
// Scale", ACM Queue 2015) would gain at most the 20 ms.
//
// The bound never falls below 256 calls, of which urgent calls have their share, nor a
// batch below 256, although a slow member may take long for them. If processes wait for the CPU, round trips of 100 ms with nothing
// queued are usual, and a limit that follows the rate of answers down would keep the rate
// from recovering. And a member answers its links in proportion to what they have in
// flight, so that the slower one of two would lose more and more.
//
// The rate of answers is estimated as in BBR (Cardwell et al., ACM Queue 2016): per
// answered batch, over the time since the last answer before it was sent. A sample for
// which the queue did not fill the batch shows what was asked, not what can be answered,
// and counts only if it raises the estimate. A batch has what is answered in 10 ms, or in
// the base round trip if that is longer, so that two batches in flight suffice.
type admission struct {
	maxItems int // Options.MaxItems

	answered    int64 // calls, in all
	lastAnswer  int64
	rate        int64 // of answers per second; 0: not known
	share       int64 // of calls that are not urgent among those sent, in thousandths
	saturated   int64 // when the last sample with a full batch was taken
	saturatedIn int64 // when such samples began

	roundTrips [2]int64 // the least in this window and in the one before; never: none
	window     int64    // when this window ends
	roundTrip  int64    // of batches, smoothed
	// base is the least time of batches of at most minBatch that were sent when nothing was
	// in flight: what the network, and the wait for a CPU, take. It is renewed every
	// baseWindow, and if it cannot, because the link is never idle, by probing.
	base, nextBase, baseEnds int64

	refusedAt int64 // when a call was refused last
	crowdedAt int64 // when more calls were queued last than the least batch takes

	bound int // calls in the queue that are not urgent
	limit int // calls of a batch

	// What follows is since the interval began.
	began     int64
	lastTaken int64 // when a batch was last taken, in any interval
	batches   int   // that were taken
	lowest    int   // number of calls in the queue that are not urgent
	highest   int
	refused   bool
	ranDry    bool // after a refusal nothing was queued or in flight
}

const (
	minQueue   = 256
	leastQueue = 32 // if nearly all calls are urgent
	maxBurst   = 4096
	minBatch   = 256

	queueDelay     = int64(20 * time.Millisecond)  // of a queue that does not empty
	burstDelay     = int64(100 * time.Millisecond) // of the longest burst beyond maxBurst
	batchDelay     = int64(10 * time.Millisecond)  // of a batch
	queueInterval  = int64(100 * time.Millisecond)
	rateSmoothing  = int64(200 * time.Millisecond)
	idleTime       = int64(500 * time.Millisecond) // after which a link may take a burst again
	recently       = int64(time.Second)            // for how long a measurement is relied on
	baseWindow     = int64(5 * time.Second)
	smallBatch     = 32                 // calls: they take no time to speak of
	rttWindow      = int64(time.Second) // minima are over one or two of them
	shareSmoothing = 1024               // calls
)

func newAdmission(maxItems int) admission {
	return admission{
		maxItems: maxItems, share: 1000, nextBase: never, saturated: math.MinInt64 / 2, lastAnswer: math.MinInt64 / 2, refusedAt: math.MinInt64 / 2, crowdedAt: math.MinInt64 / 2,
		roundTrips: [2]int64{never, never}, bound: maxBurst, limit: maxItems, lowest: math.MaxInt,
	}
}

// sentBatch is what admission remembers of a batch in flight.
type sentBatch struct {
	at       int64 // when it was sent
	answered int64 // calls before it
	since    int64 // when the last of them was answered, or at if nothing was in flight
	full     bool  // more calls were queued
	alone    bool  // it tells the base round trip
}

// admits reports whether one more call may join a queue of so many calls and urgent calls.
func (a *admission) admits(now int64, queued, urgent int, deadline int64) bool {
	if queued == 0 && now-a.lastTaken >= idleTime {
		a.bound = max(a.bound, maxBurst) // a new burst after a pause
	}
	if a.full(now, queued, urgent) || queued >= a.leastBound() && 2*a.wait(now, queued)+a.leastRoundTrip(now) > deadline-now {
		a.recordRefusal(now)
		return false
	}
	return true
}

// recordRefusal records that a call was refused because the queue is full.
func (a *admission) recordRefusal(now int64) { a.refused, a.refusedAt = true, now }

// crowded reports whether calls may be late because more is asked than the member answers:
// lately calls were refused, or more were queued than a batch takes. A network that loses
// packets delays few calls, too.
func (a *admission) crowded(now int64) bool {
	return now-a.crowdedAt <= recently || now-a.saturated <= recently || a.overloaded(now)
}

// overloaded reports whether calls were refused lately.
func (a *admission) overloaded(now int64) bool { return now-a.refusedAt <= recently }

// full reports whether admits refuses any call: the queue is at its bound, or urgent calls
// alone will take too long.
func (a *admission) full(now int64, queued, urgent int) bool {
	return queued >= a.bound || urgent >= 2*minQueue && now-a.saturated <= recently && urgent > a.during(burstDelay)
}

// leastBound is below what the bound never falls: what minQueue calls have that are not
// urgent, which are all that the queue counts.
func (a *admission) leastBound() int { return max(minQueue*int(a.share)/1000, leastQueue) }

// wait returns how long a queue of so many calls takes to be sent, while urgent ones are
// sent first; 0 if that is not known.
func (a *admission) wait(now int64, queued int) int64 {
	if a.rate == 0 || now-a.saturated > recently {
		return 0
	}
	return int64(queued) * int64(time.Second) / max(a.rate*a.share/1000, 1)
}

// retryAfter returns when a refused call may be tried again: when the queue has been sent.
func (a *admission) retryAfter(now int64, queued int) time.Duration {
	return min(time.Duration(max(a.wait(now, queued), queueDelay)), MaxRetryAfter)
}

// leastRoundTrip returns the least time that a batch took lately; 0 if that is not known.
func (a *admission) leastRoundTrip(now int64) int64 {
	if now-a.lastAnswer > recently {
		return 0
	}
	return min(a.roundTrips[0], a.roundTrips[1])
}

// batchLimit sets and returns how many calls the next batch may have.
func (a *admission) batchLimit(now int64) int {
	switch {
	case a.probing(now):
		a.limit = min(a.maxItems, minBatch)
	case now-a.lastAnswer > recently:
		a.limit = a.maxItems
	default:
		a.limit = min(a.maxItems, max(minBatch, a.during(max(batchDelay, a.base))))
	}
	return a.limit
}

// probing reports whether the next batch must wait until nothing is in flight, because the
// base round trip has not been measured for long. BBR does so, too.
func (a *admission) probing(now int64) bool {
	return now >= a.baseEnds && a.nextBase == never && now-a.saturated <= recently
}

// during returns how many calls are answered in a time.
func (a *admission) during(d int64) int {
	return int(min(a.rate, 1<<30) * min(d, int64(time.Second)) / int64(time.Second))
}

// took records that a batch was taken, with so many urgent and other calls, and so many of
// the others were left in the queue. More means that the batch had no room for all of the
// queue; behind, that other batches are in flight.
func (a *admission) took(now int64, urgent, others, left int, more, behind bool) sentBatch {
	a.lastTaken = now
	n := int64(urgent + others)
	a.share += (int64(others)*1000/n - a.share) * n / (n + shareSmoothing)
	a.batches++
	a.lowest, a.highest = min(a.lowest, left), max(a.highest, left+others)
	if a.batches >= 3 && now-a.began >= queueInterval {
		a.endInterval(now)
	}
	s := sentBatch{at: now, answered: a.answered, since: now, full: more, alone: !behind && n <= minBatch}
	if behind {
		s.since = max(a.lastAnswer, 0)
	}
	return s
}

// endInterval sets the bound of the queue by what happened in the interval.
func (a *admission) endInterval(now int64) {
	least := max(min(a.maxItems, a.during(batchDelay)), a.during(queueDelay))
	least = max(int(int64(least)*a.share/1000), a.leastBound())
	most := max(maxBurst, a.during(burstDelay))
	switch {
	case a.ranDry, !a.refused && a.lowest <= least/2:
		a.bound *= 2
	case a.lowest > least:
		a.bound = min(a.bound/2, a.highest)
	case a.lowest > least/2:
		a.bound -= a.bound / 4
	case a.lowest == 0:
		a.bound += a.bound / 4
	}
	a.bound = min(max(a.bound, least), most)
	a.began, a.batches, a.lowest, a.highest = now, 0, math.MaxInt, 0
	a.refused, a.ranDry = false, false
}

// answer records that calls of a batch were answered. Idle means that nothing is queued
// or in flight now.
func (a *admission) answer(now int64, s sentBatch, calls int, idle bool) {
	a.answered += int64(calls)
	a.lastAnswer = now
	if now >= a.window {
		a.roundTrips[1], a.roundTrips[0] = a.roundTrips[0], never
		a.window = now + rttWindow
	}
	took := now - s.at
	a.roundTrips[0] = min(a.roundTrips[0], took)
	a.roundTrip += (took - a.roundTrip) / 8
	if s.alone {
		a.nextBase = min(a.nextBase, took)
	}
	if now >= a.baseEnds && a.nextBase != never {
		a.base, a.nextBase, a.baseEnds = a.nextBase, never, now+baseWindow
	}
	a.ranDry = a.ranDry || idle && a.refused

	interval := max(now-s.since, 1000)
	sample := (a.answered - s.answered) * int64(time.Second) / interval
	if s.full {
		if now-a.saturated > recently {
			a.saturatedIn = s.since
		}
		a.saturated = now
	}
	if s.full || sample > a.rate {
		smoothing := max(min(rateSmoothing, now-a.saturatedIn), 1)
		a.rate += (sample - a.rate) * min(interval, int64(time.Second)) / (min(interval, int64(time.Second)) + smoothing)
	}
}
