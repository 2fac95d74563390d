// SPDX-License-Identifier: Apache-2.0

package bench

import "time"

// Op is the operation of a request.
type Op uint8

// The operations.
const (
	OpCheck Op = iota + 1
	OpReserve
	OpProgress
	OpSettle
)

// Event is one request and its answer, as the log of a run records them. Times
// are since the start of the run, by the clock of this process.
type Event struct {
	Op   Op
	Call *Call // shared by all events of the call; must not be changed
	// Due is when the request should have been sent, Sent when it was sent, and Done
	// when its answer arrived.
	Due, Sent, Done time.Duration
	Answer          Answer // only Route and Owner are set for OpProgress and OpSettle, only Outcome for a refusal
	Usage           Usage  // set for OpProgress and OpSettle
	Err             error  // not nil if no decision was made
}
