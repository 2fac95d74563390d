// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"time"
)

// Call is one call of a workload: a check, or an LLM call that reserves, reports
// progress and settles.
type Call struct {
	Key, Tier, Model string
	// ID is the request id. A call with the id of an earlier call is a retry of it.
	ID string

	// LLM says that the call is an LLM call. The fields of LLM calls are ignored in a
	// check.
	LLM             bool
	Requests        int64
	InputTokens     int64
	OutputTokens    int64 // tokens that an LLM call generates, or the output cost of a check
	MaxOutputTokens int64 // tokens that an LLM call reserves; at least OutputTokens
	// Duration is how long an LLM call runs. It reports progress ProgressReports
	// times, evenly spaced.
	Duration        time.Duration
	ProgressReports int
	// Lease is the time to live of the reservation without a report; 0: the target's
	// default, or more if reports are further apart.
	Lease time.Duration
}

// Workload plans calls. The same seed gives the same calls in the same order. It
// need not be safe for concurrent use.
type Workload interface {
	// Next fills c, which is the zero Call, with the next call. It returns false
	// when the workload has no more calls.
	Next(c *Call) bool
}

// Arrivals is a schedule of calls. It need not be safe for concurrent use.
type Arrivals interface {
	// Next returns the time since the start of the run at which the next call is
	// due, or [Never]. Times never decrease.
	Next() time.Duration
}

// Outcome is the result of a request.
type Outcome uint8

// The outcomes. The zero value means that there is none.
const (
	Allowed  Outcome = iota + 1
	Degraded         // allowed with a smaller grant
	Denied
	Failed  // an error: no decision was made
	Refused // an [ErrOverloaded]: nothing was decided or charged
)

// Answer is what a target answered to one request.
type Answer struct {
	Outcome Outcome
	Reason  string // why the call was denied
	// ID is the id to settle the reservation with. Empty means Call.ID.
	ID                  string
	GrantedOutputTokens int64  // of a reserve
	Route               string // local, forward, slice or fallback; empty if the target does not report it
	Owner               string // the member that decided; empty if the target does not report it
	// Replayed says that the target repeated its answer to an earlier call with the
	// same id.
	Replayed bool
	// Waited is how long the call waited for a limit before it was decided; 0 if it did not.
	Waited time.Duration
}

// Usage is the cumulative usage of an LLM call.
type Usage struct {
	ID           string
	Key          string
	InputTokens  int64
	OutputTokens int64
	Final        bool
}

// Target is a rate limiter under test. Its methods are safe for concurrent use.
// They return an error only if no decision was made; a denial is an answer.
type Target interface {
	Name() string
	Check(ctx context.Context, c *Call) (Answer, error)
	// Reserve begins an LLM call. A target without reservations returns
	// [ErrNoReservations] from Reserve and Settle, and can be sent checks only.
	Reserve(ctx context.Context, c *Call) (Answer, error)
	// Settle reports the usage of an LLM call. The answer has only Route and Owner.
	// Route "fallback" means that the usage was accepted and reaches the owner of
	// the key later.
	Settle(ctx context.Context, u Usage) (Answer, error)
	Close() error
}

// UsageReader is implemented by targets that can read how much of each limit of a
// key is used.
type UsageReader interface {
	// ReadUsage returns the state of every limit that applies to the key. It
	// charges nothing.
	ReadUsage(ctx context.Context, key, tier, model string) ([]LimitUsage, error)
}

// Flusher is implemented by targets that take back in the background what was charged for
// calls without an answer.
type Flusher interface {
	// Flush waits until nothing is left to take back, or until ctx ends.
	Flush(ctx context.Context) error
}

// LimitUsage is the state of one limit. Used and Limit are in units of the
// dimension.
type LimitUsage struct {
	Scope, Dimension, Name string
	Used, Limit            int64
}
