// SPDX-License-Identifier: Apache-2.0

package overload

import "time"

// Shedder says which share of new calls a node refuses, so that what it admits does not
// wait long for a processor.
//
// Its signal is the processor time that is queued: by Little's law (Operations Research
// 9(3), 1961) the mean time that a goroutine waits for a processor, times the share of
// its processors that the process has used meanwhile, is the work ahead of a call. A
// process that gets few processors waits long with nothing queued, and this product stays
// small. It does not count calls that wait for another member, and it sees calls of every
// interface, also those that are not read yet.
//
// The share follows the controller of PIE (RFC 8033), which keeps a queue at a target by
// dropping at random when something arrives: it grows with the distance from the target,
// and with the growth of the queue. As there, a burst passes: nothing is refused until
// the queue was too long for a while. A bound of calls in progress, as in Netflix's
// concurrency-limits or TCP Vegas, would be reached by calls that wait for a slow member,
// and would not see a call of HTTP before its goroutine runs.
//
// If other work than calls takes the processors, such as large bodies that a proxy reads,
// to refuse calls does not help, and nothing is refused.
//
// To refuse costs a good part of an answer, so the share is at most [MaxShare]: if
// callers do not hold back, to refuse more would leave fewer answers and no shorter
// queue. It never depends on earlier rates of answers, and so cannot collapse with them.
//
// The zero value refuses nothing. A Shedder is not safe for concurrent use.
type Shedder struct {
	window window

	queued, before int64 // nanoseconds of queued work, now and at the sample before
	long           int64 // for how long the queue has been above its target
	share          int64
}

const (
	// Whole is the share that is everything.
	Whole = 1_000_000
	// MaxShare is the largest share that is refused.
	MaxShare = Whole * 3 / 4
	// Target is the queued work above which more and more is refused.
	Target = 5 * time.Millisecond

	// In this time the share changes by shedGain times the distance of the queue from its
	// target, in targets. A change of the queue by one target changes the share by shedTrend.
	shedTime  = int64(20 * time.Millisecond)
	shedGain  = Whole / 20
	shedTrend = Whole / 10
	shedFar   = 4 // targets: a longer queue counts as this
)

// Update returns the share of new calls to refuse from now on, in millionths.
func (s *Shedder) Update(m Sample) (share int64) {
	elapsed := int64(m.Elapsed)
	if elapsed <= 0 {
		return s.share
	}
	s.window.add(m)
	s.before, s.queued = s.queued, 0
	if s.window.byCalls() {
		s.queued = s.window.queued()
	}
	switch {
	case s.queued > int64(Target):
		s.long = min(s.long+elapsed, grace)
	case s.share == 0:
		s.long = 0
	}
	if s.long < grace {
		return 0
	}
	far := func(queued int64) int64 { return min(queued, shedFar*int64(Target)) - int64(Target) }
	change := shedGain*far(s.queued)/int64(Target)*min(elapsed, 5*shedTime)/shedTime +
		shedTrend*(far(s.queued)-far(s.before))/int64(Target)
	s.share = min(max(s.share+change, 0), MaxShare)
	return s.share
}

// Queued returns the processor time that is queued for each processor; 0 if other work
// than calls takes most of it.
func (s *Shedder) Queued() time.Duration { return time.Duration(s.queued) }
