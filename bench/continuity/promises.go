// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"time"

	"github.com/bucketring/bucketring/bench/suite"
)

// promise is what holds for one kind of fault. Of every kind it is promised that
//
//   - no owner admits more than a limit, except for what the windows below allow;
//   - fallback admits no more than the mode that each limit declares;
//   - no charge is made twice, and none is lost, except as the windows below allow; after a
//     split, this says that what either side admitted was repaid to the unit;
//   - no settle finds its reservation unknown.
type promise struct {
	// lossWindow: charges of this time before the fault may be lost. It is the time
	// between two fsyncs of the journal.
	lossWindow time.Duration
	// smallWindow is the same for charges below 1 % of their limit, whose answers do not
	// wait for the heir: the time between two flushes and one round trip.
	smallWindow time.Duration
	// inFlight: checks that were in flight when the fault began may be charged twice, or be
	// denied and charged. Their ids are remembered for 30 s, so that after a longer fault
	// their owner charges again what was decided without it.
	inFlight bool
	// errorShare is the highest share of requests that may fail, in millionths. none means
	// that it is shown and not promised, as everywhere below.
	errorShare int64
	// p99Times is how much longer than before the fault the p99 may be; p999 is a bound.
	p99Times int64
	p999     time.Duration
	// ownedExact and heirExact are within which time after the fault all answers for keys
	// that the victim owned, and that it was heir of, are from an owner again.
	ownedExact, heirExact time.Duration
	// oneRing is within which time after a split all nodes have the same ring.
	oneRing time.Duration
}

// none means that nothing is promised.
const none = -1

// Parts of promises.
const (
	journalInterval  = time.Second         // between two fsyncs of the journal
	flushAndAnswer   = suite.LossAtFailure // what a killed node may have answered before its heir knew
	errorMillionths  = 100                 // 0.01 %
	takeoverOfDead   = time.Second         // of a process that is proved dead
	takeoverOfSilent = 4 * time.Second     // of a machine that no longer answers
	otherHeir        = time.Second         // until an owner goes on with another heir
	healed           = 20 * time.Second    // one ring after a split
)

// promises are all promises. docs/continuity.md explains them.
var promises = map[Kind]promise{
	Rolling: {
		errorShare: errorMillionths, p99Times: 3, p999: 50 * time.Millisecond,
		ownedExact: none, heirExact: none, oneRing: none,
	},
	Kill: {
		smallWindow: flushAndAnswer, errorShare: errorMillionths, p99Times: none, p999: none,
		ownedExact: takeoverOfDead, heirExact: otherHeir, oneRing: none,
	},
	Pause: {
		smallWindow: flushAndAnswer, errorShare: errorMillionths, p99Times: none, p999: none,
		ownedExact: takeoverOfSilent, heirExact: otherHeir, oneRing: none,
	},
	Split: {
		smallWindow: flushAndAnswer, inFlight: true, errorShare: errorMillionths, p99Times: none, p999: none,
		ownedExact: takeoverOfSilent, heirExact: otherHeir, oneRing: healed,
	},
	FullKill: {
		lossWindow: journalInterval, errorShare: none, p99Times: none, p999: none,
		ownedExact: none, heirExact: none, oneRing: none,
	},
}
