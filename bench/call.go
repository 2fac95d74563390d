// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"time"
)

// Call is one call as a workload plans it, before anything was sent.
type Call struct {
	Key, Tier, Model string
	// ID is the request id. Two calls with the same id are a retry of one.
	ID string

	// LLM: reserve, progress, settle. If not, the call is a check.
	LLM          bool
	Requests     int64
	InputTokens  int64
	OutputTokens int64 // of an LLM call: what it really generates
	MaxOutput    int64 // of an LLM call: what it reserves, at least OutputTokens
	// Hold is how long an LLM call runs, and Reports how often it reports
	// progress meanwhile, evenly.
	Hold    time.Duration
	Reports int
}

// Workload plans calls. The same seed gives the same calls in the same order.
// Next is called by one goroutine.
type Workload interface {
	// Next fills c with the next call. It returns false at the end of a
	// workload that has one, such as a trace.
	Next(c *Call) bool
}

// Arrivals say when calls are due. Next is called by one goroutine.
type Arrivals interface {
	// Next returns when the next call is due, since the start of the run; it
	// never goes backwards.
	Next() time.Duration
}

// Outcome is what became of a question.
type Outcome uint8

// The outcomes. Zero is none of them.
const (
	Allowed  Outcome = iota + 1
	Degraded         // allowed, with a smaller grant
	Denied
	Failed // no decision: an error
)

// Answer is what a target said to a check or a reserve.
type Answer struct {
	Outcome Outcome
	Reason  string // why denied
	// ID is the id by which the reservation is settled; empty: the call's own.
	ID      string
	Granted int64  // output tokens of a reserve
	Route   string // how it was decided, if the target says: local, forward, slice, fallback
	Owner   string // who decided, if the target says
	// Replayed: it was the answer to an earlier call with the same id.
	Replayed bool
}

// Usage is what an LLM call has used so far.
type Usage struct {
	ID           string
	Key          string
	InputTokens  int64
	OutputTokens int64
	Final        bool
}

// Target is a limiter, as its users reach it. It is safe for concurrent use. An
// error means that there is no decision; a denial is an answer.
type Target interface {
	Name() string
	Check(ctx context.Context, c *Call) (Answer, error)
	// Reserve and Settle are for LLM calls; a target that has no reservations
	// returns [ErrNoReservations], and its runs are of checks only.
	Reserve(ctx context.Context, c *Call) (Answer, error)
	// Settle reports usage. Of its answer only Route and Owner count: with the route
	// fallback the usage was taken, and the owner of the key is told of it later.
	Settle(ctx context.Context, u Usage) (Answer, error)
	Close() error
}

// Left says how much of each limit of a key was used, for targets that can tell.
type Left interface {
	// Used returns the amounts by dimension and scope.
	Used(ctx context.Context, key, tier, model string) ([]Used, error)
}

// Used is the state of one limit.
type Used struct {
	Scope, Dimension, Name string
	Used, Limit            int64
}
