// SPDX-License-Identifier: Apache-2.0

package limiter

import "time"

// Time is one reading of the owner's monotonic and wall clocks, in nanoseconds.
// Durations come from Mono, calendar windows from Wall, which is Unix time. If a
// Mono is older than one already used in a partition, the newer one counts.
type Time struct{ Mono, Wall int64 }

// Add returns t with both clocks advanced by d.
func (t Time) Add(d time.Duration) Time { return Time{t.Mono + int64(d), t.Wall + int64(d)} }

// MaxLevels is the largest number of segments of a key.
const MaxLevels = 4

// Plan is what a policy resolves for one request: which limits apply at which
// level of the key, and what its tokens cost. A policy fills it in place, without
// allocating, and it is valid as long as that policy.
type Plan struct {
	Levels        [MaxLevels]Level
	Count         int    // levels in use, from the root down
	Tier          string // of the most specific level; kept for reservations
	Rates         Rates
	DefaultOutput int64 // output tokens of a reserve that names none
	BoundOutput   bool  // such a reserve must be run with its grant as its bound; for callers of the engine
	Version       uint64

	// Weight is the share of the key among those that wait at a limit, see package line. 0
	// means 1.
	Weight int64
	// Priority is the class of calls that ask for none, and HighestPriority the most urgent
	// one that calls may ask for. NoPriority means Standard and Interactive.
	Priority, HighestPriority Priority
}

// Level is one level of a key that has a tier.
type Level struct {
	End      int // key[:End] is the scope
	Tier     string
	Limits   *LimitSet // limits shared by all models; may be nil
	Model    *LimitSet // limits that match the request's model, with state per model; may be nil
	Estimate Estimate
}

// Bounds of requests for those who serve callers. The engine does not check them.
const (
	MaxCosts         = 16
	MaxCostNameBytes = 64
	// MaxTTLSeconds bounds how long a caller that crashed can hold a slot. A longer call
	// renews its lease by reporting progress.
	MaxTTLSeconds = 3600
)

// Cost is an amount in a custom dimension.
type Cost struct {
	Dimension Dimension
	Amount    int64
}

// Request is the argument of Check, Reserve and Peek. The engine keeps no
// reference to it. Its numbers must be between 0 and [MaxAmount].
type Request struct {
	Key  string // must be valid, see [ValidateKey]
	Tier string // as named by the caller, "" if none; part of the request's identity
	// Model selects per-model state; prices and weights come from the Plan.
	// Requests without a model share the state of model "*".
	Model string
	// ID makes the request idempotent. Requests without one are not remembered.
	// Reserve needs one.
	ID   string
	Plan *Plan

	// Force charges a request that was already decided elsewhere, whatever the
	// limits say, shadow limits included. The outcome is Allowed unless there is no
	// room for its state, and Reserve grants what was asked for. The debt of a
	// token bucket stops at one capacity; the rest is counted in [Stats].Overrun.
	// Force is not part of the request's identity: a known id is replayed and
	// charges nothing.
	Force bool

	Requests    int64
	InputTokens int64
	// OutputTokens is the real output for Check, and the maximum output of one
	// choice for Reserve, where a negative number means the plan's DefaultOutput.
	OutputTokens int64
	Costs        []Cost
	// ServiceTier names the factor of the prices, see [ServiceTiers]. A Check is charged
	// with it. A Reserve is charged with it if it is above 1, because a discount that was
	// asked for may not be given.
	ServiceTier string

	// Priority is the class that the call asks for, see [Plan].Class. A class above the highest
	// of the plan is refused with a [*FieldError]. It is not part of the request's identity.
	Priority Priority

	// Attempt identifies one attempt among several with the same ID, so that it can
	// be withdrawn. An attempt 0 cannot be. It is not part of the request's identity.
	Attempt uint64
	// Asker says who asks, for [Engine.HotKeys]. The caller numbers them.
	Asker uint32
	// TakesSlice asks for [Decision].Rate also if the call is not one of those that are
	// counted. It is not part of the request's identity.
	TakesSlice bool

	// The following fields are for Reserve only.

	// EstimatedInput means that InputTokens is an estimate. Instead of denying it with
	// [ExceedsCapacity], the engine reserves as much of it as fits the whole capacity of
	// every limit, and at least KnownInput. What the call uses beyond that counts in full,
	// although debt stops at one capacity otherwise.
	EstimatedInput bool
	// KnownInput is the part of InputTokens that is no estimate, such as token ids.
	KnownInput      int64
	MinOutputTokens int64         // 0: max(256, OutputTokens/8)
	Choices         int64         // n; 0 means 1
	TTL             time.Duration // lease; 0 means [DefaultTTL]
}

// stateModel returns the model under which the request's per-model state is kept.
func (r *Request) stateModel() string {
	if r.Model == "" {
		return "*"
	}
	return r.Model
}

// DefaultTTL is the lease of a reservation whose request names none.
const DefaultTTL = 30 * time.Second

// Usage reports what a reserved call has used so far. Numbers are cumulative, and
// negative numbers mean absent.
type Usage struct {
	Key, ID string
	// InputTokens includes CachedInputTokens and the cache writes, which do not overlap.
	// If absent, the reserved estimate counts.
	InputTokens       int64
	CachedInputTokens int64 // 0 if absent
	// Input that was written to a cache: for five minutes or an unknown time, and for an
	// hour. 0 if absent.
	CacheWriteTokens, CacheWrite1hTokens int64
	// OutputTokens is the sum over all choices. If absent, the last progress counts.
	OutputTokens int64
	Costs        []Cost // absent dimensions keep their charge
	// Images and Searches are charged fees. 0 if absent.
	Images, Searches int64
	// ServiceTier is the one that was given. If empty, the reserve's counts, without a
	// discount.
	ServiceTier string
	// Rejected means that the call was refused, so that no fee is due for the request.
	// Limits on requests keep their charge.
	Rejected bool
	Final    bool
}

// Outcome says whether a request was admitted.
type Outcome uint8

// The outcomes.
const (
	Allowed Outcome = iota + 1
	Degraded
	Denied
)

// String returns the name used in answers.
func (o Outcome) String() string { return [...]string{"", "allowed", "degraded", "denied"}[o&3] }

// Reason says why a request was denied. It is NoReason if it was not.
type Reason uint8

// The reasons.
const (
	NoReason Reason = iota
	LimitExceeded
	ExceedsCapacity  // more than the whole capacity: a retry cannot succeed
	NoPrice          // a spend limit applies, and the model has no price
	OwnerUnreachable // only the owner can decide, and it cannot be reached
	TableFull        // no room for the state of a new key
	IDsFull          // the live reservations of the root fill its share of the request ids
)

var reasonNames = [...]string{"", "limit_exceeded", "exceeds_capacity", "no_price", "owner_unreachable", "table_full", "ids_full"}

// String returns the name used in answers.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Decision is the result of an engine call. Callers may reuse one to avoid
// allocations. Its strings are shared with the request and the policy.
type Decision struct {
	Outcome Outcome
	Reason  Reason
	Tier    string
	// GrantedOutputTokens is the most output that a reserved call may generate per
	// choice.
	GrantedOutputTokens int64
	// RetryAfter is how long until the same request would fit if no other came
	// first. It is negative if that time is unknown or never comes, and zero if the
	// request was not denied.
	RetryAfter time.Duration
	// Binding is the index in Limits of the limit that denied the request or, if it
	// was allowed, of the enforced limit with the smallest share remaining. It is -1
	// if there is none.
	Binding       int
	Limits        []LimitState
	PolicyVersion uint64
	// Replayed means that this is the earlier decision of a known request id: the same
	// outcome, reason, grant and costs. The other fields of Limits are as they are now.
	Replayed bool
	// Status is the reservation's status after Reserve, Settle and Cancel.
	Status Status

	// Change is the number of the last change that the decision depends on: of the one
	// that this call made or, for a repeated call, of the latest of the partition. It is
	// 0 if the call changed nothing. Withdrawals always have one.
	Change uint64
	// Large means that the caller should learn of the decision only when another node
	// has the change: the call charged at least 1 % of the capacity of an enforced limit
	// that is not [Limit].Async, or it is a reserve, a settle, a cancel, a withdrawal or
	// a repeated call.
	Large bool

	// Rate is how many checks and reserves per second the key has, and AskerShare the part of
	// [Request].Asker in thousandths. They are set by Check and Reserve if the key has
	// [HotRate] or more, with [Options].HotKeys. While not every call is counted, they are
	// set for those that are, and for those with [Request].TakesSlice; else they are 0.
	Rate, AskerShare int64

	assessments []assessment // scratch space, reused
}

// Status is the status of a reservation.
type Status uint8

// The statuses of a reservation.
const (
	NoStatus  Status = iota
	Held             // live: its estimate and its slots are charged
	Settled          // ended by a final settle
	Cancelled        // ended by a cancel
	Expired          // ended by its lease; a late settle still corrects the charge
)

// String returns the name used in answers.
func (s Status) String() string {
	return [...]string{"", "held", "settled", "cancelled", "expired", "", "", ""}[s&7]
}

// LimitState is the state of one limit after a decision.
type LimitState struct {
	Name      string
	Dimension Dimension
	Scope     string // key path of the level
	Algorithm Algorithm
	// Definition is the number of the definition of the limit in the [Catalog]. States with
	// the same number have the same Name, Dimension, Algorithm, Limit, Capacity, Shadow,
	// Hidden and Queue and, unless windows follow a calendar, the same Window. No other
	// definition gets it later. 0: unknown.
	Definition uint32
	Limit      int64 // amount per window
	Capacity   int64 // the most that one request can take: burst or limit
	// Remaining is what the class of the request may still use: Headroom is left out. It is 0
	// in debt.
	Remaining int64
	// Headroom is what the class of the request must leave free. It is 0 after Settle and
	// Cancel, which have no class.
	Headroom int64
	Debt     int64         // usage beyond the capacity
	Window   time.Duration // nominal length; of the current window for calendars; 0 for concurrency
	// ResetAt is when usage would be zero without further requests, in Unix
	// nanoseconds; 0 for concurrency.
	ResetAt int64
	Cost    int64 // charge of this request, less what exceeds a bucket's maximum debt
	// Credit is what is left of the credit of the limit, see [Engine.Grant]. It is set by
	// Peek only.
	Credit int64
	// Reserved is the estimate that the reservation first charged. It is set after
	// Settle and Cancel only.
	Reserved int64
	Shadow   bool
	Hidden   bool // see [Limit].Hidden
	// PerModel means that the limit counts each model on its own. It is not set for
	// reservations that were made earlier.
	PerModel bool
	// Exceeded means that this limit denies the request, or would if it were not in
	// shadow mode.
	Exceeded bool
	// Wait is how long until this limit alone would admit the request if no other came first.
	// It is set where Exceeded is, after a denial with [LimitExceeded], else 0.
	Wait time.Duration
	// Queue is [Limit].Queue.
	Queue Queue
}
