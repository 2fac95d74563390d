// SPDX-License-Identifier: Apache-2.0

package line

import (
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// Bounds bound a line. Fields that are 0 have their default.
type Bounds struct {
	Depth    int           // calls in the line; default [DefaultDepth]
	KeyDepth int           // calls of one key; default Depth
	Age      time.Duration // after which a class goes first with one call; default [DefaultAge]
}

// Defaults of bounds.
const (
	DefaultDepth = 10_000
	DefaultAge   = 10 * time.Second
)

// ID identifies a call that waits in a line. It is never 0, and not used again.
type ID uint64

// Call is a call that wants to wait.
type Call struct {
	Key   string           // full key
	Model string           // "" if it has none, as [limiter.Request].Model
	Class limiter.Priority // of [limiter.Plan].Class; NoPriority counts as Standard
	// Weight is that of the plan, from 1 to [limiter.MaxWeight]; 0 means 1.
	Weight int64
	// Arrived is when the call began to wait, on the clock of now: earlier than now if it
	// waited at another owner before. It must not be later than now.
	Arrived int64
	// MaxWait is how long the call may wait, counted from Arrived. 0: as long as its limits
	// allow, which is the bound in any case.
	MaxWait time.Duration
}

// Place says where a call waits.
type Place struct {
	ID ID
	// Ahead is how many calls are ahead of it at its limit.
	Ahead int
	// Limit is the index in [limiter.Decision].Limits of the limit at which it waits.
	Limit int
	// Estimate is how long it will wait, see the package comment.
	Estimate time.Duration
	// Deadline is when its time is over, on the clock of now.
	Deadline int64
}

// Refusal says why a call may not wait.
type Refusal uint8

// The refusals.
const (
	NotRefused Refusal = iota
	Never              // it was not denied with limit_exceeded, or a retry cannot succeed
	NoQueue            // a limit that denies it lets no call wait
	LimitFull          // as many as may wait at the limit wait there
	KeyFull            // as many as may wait of a key wait
	LineFull           // as many as may wait of a root wait
	TooLate            // it would not fit before its time is over
)

var refusalNames = [...]string{"", "never", "no_queue", "limit_full", "key_full", "line_full", "too_late"}

// String returns a word for metrics and logs.
func (r Refusal) String() string {
	if int(r) < len(refusalNames) {
		return refusalNames[r]
	}
	return "unknown"
}

// TurnKind says what a [Turn] is.
type TurnKind uint8

// The kinds of turns.
const (
	None    TurnKind = iota // nobody is to be tried before At
	Try                     // ask the engine for the call ID
	Expired                 // the time of the call ID is over: it has left the line
)

// Turn is what [Line.Next] says.
type Turn struct {
	Kind TurnKind
	ID   ID
	// At is when to call Next again if nothing else happens, on the clock of now.
	// math.MaxInt64 if nobody waits. It is set for None.
	At int64
}

// A Line is the line of the calls of one root that wait. It is not safe for concurrent use.
// Every time is in nanoseconds of one monotonic clock, that of [limiter.Time].Mono. A now that
// is earlier than one before counts as that.
type Line struct {
}

// New returns an empty line.
func New(b Bounds) *Line { return &Line{} }

// Arrive adds a call. d is the decision that denied it with [limiter.LimitExceeded] or, if
// [Line.Blocks] says that it must wait, the one of [limiter.Engine.Preview]. Of both, the line
// reads Limits, and keeps no reference but to the names.
//
// Unless it returns NotRefused, the call is not in the line. place.Estimate is then the honest
// time after which to retry, negative if a retry cannot succeed.
func (l *Line) Arrive(now int64, c Call, d *limiter.Decision) (place Place, refusal Refusal) {
	return Place{}, Never
}

// Blocks reports whether a call of a class must go behind others: one of its class or of a more
// urgent one waits at a limit of d that the call takes from. d is the decision of
// [limiter.Engine.Preview], which allowed the call. It allocates nothing. If Len is 0, it need
// not be asked.
func (l *Line) Blocks(now int64, class limiter.Priority, model string, d *limiter.Decision) bool {
	return false
}

// Next returns what to do next. The answer to Try is Admitted, Denied or Leave, before Next is
// called again.
func (l *Line) Next(now int64) Turn { return Turn{} }

// Admitted removes a call that the engine admitted.
func (l *Line) Admitted(now int64, id ID) {}

// Denied puts back a call that Next named and the engine denied: d. It may wait at another
// limit from now on. If it is refused, it has left the line, and retry is the honest time.
func (l *Line) Denied(now int64, id ID, d *limiter.Decision) (retry time.Duration, refusal Refusal) {
	return 0, NotRefused
}

// Leave removes a call whose caller has gone. It reports whether the call was in the line.
func (l *Line) Leave(now int64, id ID) bool { return false }

// Freed says that something came back to limits: a settle, a cancel, the end of a lease, a
// credit. Those who wait there are tried. Of limits, the line reads Scope, Dimension and Name.
func (l *Line) Freed(now int64, limits []limiter.LimitState) {}

// FreedAll is Freed for all limits, after a change of the policy.
func (l *Line) FreedAll(now int64) {}

// Estimate returns how long a call will still wait, as of now.
func (l *Line) Estimate(now int64, id ID) time.Duration { return 0 }

// Len returns how many calls wait.
func (l *Line) Len() int { return 0 }

// Waiting returns how many calls of a class wait.
func (l *Line) Waiting(c limiter.Priority) int { return 0 }

// Each calls f for each call that waits, in no order, with its class and since when it waits.
func (l *Line) Each(f func(id ID, class limiter.Priority, arrived int64)) {}
