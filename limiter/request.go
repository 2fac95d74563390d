// SPDX-License-Identifier: Apache-2.0

package limiter

import "time"

// Time is one reading of the owner's two clocks, in nanoseconds. Durations
// come from Mono; calendar windows from Wall (Unix time). A caller's clock is
// never used. A Mono that is older than one already seen by a key counts as
// that one.
type Time struct{ Mono, Wall int64 }

// At returns the Time at which both clocks of t have advanced by d.
func (t Time) Add(d time.Duration) Time { return Time{t.Mono + int64(d), t.Wall + int64(d)} }

// MaxLevels is the largest number of segments of a key.
const MaxLevels = 4

// Plan is what a policy resolved for one call: which limits apply at which
// level of the key, and what its tokens cost. It is filled in place, without
// allocation, and valid as long as the policy that filled it.
type Plan struct {
	Levels        [MaxLevels]Level
	Count         int    // levels in use, from the root down
	Tier          string // of the most specific level
	Rates         Rates
	DefaultOutput int64 // max output of a reserve that names none
	Version       uint64
}

// Level is one level of a key that has a tier.
type Level struct {
	End      int // key[:End] is the scope
	Tier     string
	Limits   *LimitSet // limits for every model; may be nil
	Model    *LimitSet // limits that match the call's model, kept per model; may be nil
	Estimate Estimate
}

// Cost is a charge in an operator's own dimension.
type Cost struct {
	Dimension Dimension
	Amount    int64
}

// Request is a call to Check, Reserve or Peek. The engine keeps no reference
// to it. Its numbers are between 0 and [MaxAmount].
type Request struct {
	Key  string // validated by the caller: 1 to 4 non-empty segments
	Tier string // as named by the caller, "" if none; part of the request's identity
	// Model selects per-model state; prices and weights come from the Plan. Calls
	// without one share a state, named "*".
	Model string
	// ID makes the call idempotent. Empty: the call is not remembered, and
	// Reserve refuses it.
	ID   string
	Plan *Plan

	// Force: the call was decided elsewhere and is only told now, so it is charged
	// whatever the limits say, in shadow too. The outcome is Allowed unless there
	// is no room for its state; a Reserve grants what was asked and takes its
	// slots. A bucket owes at most one capacity, as after a settle; the rest is
	// counted in [Stats].Overrun. Force is no part of the request's identity: an id
	// that was answered is replayed and charges nothing.
	Force bool

	Requests    int64
	InputTokens int64
	// OutputTokens is the real output of a Check, or the largest output of one
	// choice of a Reserve; negative in a Reserve: the plan's DefaultOutput.
	OutputTokens int64
	Costs        []Cost

	// Reserve only. Attempt tells this sending of the request from all others with
	// the same id, so that it can be withdrawn. 0: it cannot. It is no part of the
	// request's identity.
	Attempt         uint64
	MinOutputTokens int64         // 0: max(256, OutputTokens/8)
	Choices         int64         // n; 0 means 1
	TTL             time.Duration // lease; 0 means DefaultTTL
}

// stateModel is the model under which a request's per-model state is kept.
func (r *Request) stateModel() string {
	if r.Model == "" {
		return "*"
	}
	return r.Model
}

// DefaultTTL is the lease of a reservation that names none.
const DefaultTTL = 30 * time.Second

// Usage is a report of what a reserved call has really used so far. Numbers
// are cumulative; negative means absent.
type Usage struct {
	Key, ID string
	// InputTokens includes CachedInputTokens. Absent: the reserved estimate.
	InputTokens       int64
	CachedInputTokens int64 // absent: 0
	// OutputTokens is the sum over all choices. Absent: the last progress.
	OutputTokens int64
	Costs        []Cost // absent dimensions keep what is charged
	Final        bool
}

// Outcome is a decision's verdict.
type Outcome uint8

// The outcomes.
const (
	Allowed Outcome = iota + 1
	Degraded
	Denied
)

// String returns the name used in answers.
func (o Outcome) String() string { return [...]string{"", "allowed", "degraded", "denied"}[o&3] }

// Reason is why a call was denied; 0 if it was not.
type Reason uint8

// The reasons.
const (
	NoReason Reason = iota
	LimitExceeded
	ExceedsCapacity  // would not fit an untouched limit: retrying is useless
	NoPrice          // a spend limit applies, and the model has no price
	OwnerUnreachable // the member that could decide cannot be asked
	TableFull        // no room for the state of a new key
)

var reasonNames = [...]string{"", "limit_exceeded", "exceeds_capacity", "no_price", "owner_unreachable", "table_full"}

// String returns the name used in answers.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Decision is an answer. Callers may reuse one: its Limits keep their
// capacity. Strings are shared with the request and the policy.
type Decision struct {
	Outcome Outcome
	Reason  Reason
	Tier    string
	// GrantedOutputTokens, per choice, is what a reserve may generate.
	GrantedOutputTokens int64
	// RetryAfter is when this cost would fit if nothing else came. Negative
	// when there is no such time, zero when the call was not denied.
	RetryAfter time.Duration
	// Binding is the index in Limits of the limit that denied or, when allowed,
	// of the enforced one with the smallest share left; -1 if there is none.
	Binding       int
	Limits        []LimitState
	PolicyVersion uint64
	// Replayed says that the request id had been answered before, and this is
	// that answer.
	Replayed bool
	// Status is the reservation's, after Reserve, Settle and Cancel.
	Status Status

	assessments []assessment // scratch, kept to be reused
}

// Status is the state of a reservation.
type Status uint8

// The states of a reservation.
const (
	NoStatus  Status = iota
	Held             // live: holds its estimate and its slot
	Settled          // ended by a final settle
	Cancelled        // ended by a cancel
	Expired          // lease ran out; a late settle still corrects the charge
)

// String returns the name used in answers.
func (s Status) String() string {
	return [...]string{"", "held", "settled", "cancelled", "expired", "", "", ""}[s&7]
}

// LimitState is one limit as a decision left it.
type LimitState struct {
	Name      string
	Dimension Dimension
	Scope     string // key path of the level
	Algorithm Algorithm
	Limit     int64         // amount per window
	Capacity  int64         // the most that one call can take: burst or limit
	Remaining int64         // 0 in debt
	Debt      int64         // what was used beyond the capacity
	Window    time.Duration // nominal length; of the current window for calendars; 0 for concurrency
	// ResetAt is when nothing of the limit would be used any more, in Unix
	// nanoseconds; 0 for concurrency.
	ResetAt int64
	Cost    int64 // what this call takes of it, less what a bucket in debt drops
	// Reserved is, after Settle and Cancel, what the reservation first held.
	Reserved int64
	Shadow   bool
	// Exceeded: this limit refuses the call, or would if it were not in shadow.
	Exceeded bool
}
