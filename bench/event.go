// SPDX-License-Identifier: Apache-2.0

package bench

import "time"

// Op is what was asked.
type Op uint8

// The operations.
const (
	OpCheck Op = iota + 1
	OpReserve
	OpProgress
	OpSettle
)

// Event is one question and its answer, as it stands in the log of a run. Times
// are since the start of the run, by the clock of the process that asked.
type Event struct {
	Op   Op
	Call *Call // shared by the events of one call; never changed after it was planned
	// Due is when it should have been sent, Sent when it was, Done when the
	// answer was there.
	Due, Sent, Done time.Duration
	Answer          Answer // of OpProgress and OpSettle only Route and Owner
	Usage           Usage  // of OpProgress and OpSettle
	Err             error  // no answer
}
