// SPDX-License-Identifier: Apache-2.0

package client

import (
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Outcome is a decision's verdict.
type Outcome string

// The outcomes.
const (
	Allowed  Outcome = "allowed"
	Degraded Outcome = "degraded" // allowed with a smaller grant
	Denied   Outcome = "denied"
)

// Reason is why a call was denied; "" if it was not.
type Reason string

// The reasons.
const (
	LimitExceeded    Reason = "limit_exceeded"
	ExceedsCapacity  Reason = "exceeds_capacity" // would not fit an untouched limit
	NoPrice          Reason = "no_price"         // a spend limit applies, and the model has no price
	OwnerUnreachable Reason = "owner_unreachable"
	TableFull        Reason = "table_full" // no room for the state of a new key
)

// Route is how the decision came about.
type Route string

// The routes.
const (
	Local    Route = "local"    // the node that was asked owns the key
	Forward  Route = "forward"  // it asked the owner
	Slice    Route = "slice"    // from a part lent to it by the owner
	Fallback Route = "fallback" // without the owner, in a declared mode
)

// Status is the state of a reservation.
type Status string

// The states of a reservation.
const (
	Held      Status = "held"
	Settled   Status = "settled"
	Cancelled Status = "cancelled"
	Expired   Status = "expired" // its lease ran out; a late settle still corrects the charge
)

// Decision is the answer to a check or a reserve.
type Decision struct {
	Outcome   Outcome
	Reason    Reason
	RequestID string
	Tier      string // of the most specific level of the key

	// RetryAfter is when this cost would fit if nothing else came. 0: the call
	// was not denied, or trying again is useless, as Reason says.
	RetryAfter time.Duration
	// Binding is the limit that denied or, when the call may run, the one with
	// the smallest share left. It is zero if there is none.
	Binding LimitState
	Limits  []LimitState

	PolicyVersion string
	Owner         string // the member that decided
	Route         Route
	// Replayed: an earlier call with the same request id had this answer.
	Replayed bool
}

// Allowed reports whether the call may run: the outcome is allowed or degraded.
func (d Decision) Allowed() bool { return d.Outcome == Allowed || d.Outcome == Degraded }

// Denied reports whether the call must not run. It is the opposite of Allowed.
func (d Decision) Denied() bool { return !d.Allowed() }

// LimitState is one limit as an answer left it.
type LimitState struct {
	Name      string
	Dimension string
	Scope     string // key path of the level
	Algorithm string
	Limit     int64         // amount per window
	Capacity  int64         // the most that one call can take
	Remaining int64         // 0 in debt
	Debt      int64         // what was used beyond the capacity
	Window    time.Duration // 0 for concurrent
	ResetAt   time.Time     // when nothing would be used any more; zero for concurrent
	Cost      int64         // what the call takes of it
	Shadow    bool          // counted and reported, never denies
	Exceeded  bool          // refuses the call, or would if it were not in shadow
}

// Settlement is the answer to a settle or a progress.
type Settlement struct {
	RequestID string
	Status    Status
	Tier      string
	// Limits of the reservation as they stand now. Their Cost is what the call
	// is charged in all.
	Limits        []LimitState
	PolicyVersion string
	Owner         string
	// Route is fallback when the owner could not be reached: the charge will
	// follow once it can.
	Route Route
}

// State is every limit of a key as it stands.
type State struct {
	Tier          string
	Limits        []LimitState
	PolicyVersion string
	Owner         string
	Route         Route
}

// take sets the answer, with the request id of the node: it differs from the one that
// was sent if the reservation was made in fallback. The message may be reused after.
func (c *decisionCall) take(d *pb.Decision) error {
	r := answerReader{hints: &c.hints}
	c.granted = d.GetGrantedOutputTokens()
	a := &c.answer
	*a = Decision{
		Outcome:       word(outcomeNames[:], d.GetOutcome()),
		Reason:        word(reasonNames[:], d.GetReason()),
		RequestID:     r.requestID(d.GetRequestId()),
		Tier:          r.text(d.GetTier()),
		Limits:        r.limits(d.GetLimits()),
		PolicyVersion: r.text(d.GetPolicyVersion()),
		Owner:         r.text(d.GetOwner()),
		Route:         word(routeNames[:], d.GetRoute()),
		Replayed:      d.GetReplayed(),
	}
	if a.RequestID == "" {
		a.RequestID = c.hints.sent
	}
	if d.GetRetryAfter() != nil {
		a.RetryAfter = max(d.GetRetryAfter().AsDuration(), 1)
	}
	if i := int(d.GetBinding()); d != nil && d.Binding != nil && i >= 0 && i < len(a.Limits) {
		a.Binding = a.Limits[i]
	}
	return r.err
}

func (c *settlementCall) take(s *pb.Settlement) error {
	r := answerReader{hints: &c.hints}
	c.answer = Settlement{
		RequestID:     r.requestID(s.GetRequestId()),
		Status:        word(statusNames[:], s.GetStatus()),
		Tier:          r.text(s.GetTier()),
		Limits:        r.limits(s.GetLimits()),
		PolicyVersion: r.text(s.GetPolicyVersion()),
		Owner:         r.text(s.GetOwner()),
		Route:         word(routeNames[:], s.GetRoute()),
	}
	return r.err
}

func (c *stateCall) take(p *pb.PeekResponse) error {
	r := answerReader{hints: &c.hints}
	c.answer = State{
		Tier:          r.text(p.GetTier()),
		Limits:        r.limits(p.GetLimits()),
		PolicyVersion: r.text(p.GetPolicyVersion()),
		Owner:         r.text(p.GetOwner()),
		Route:         word(routeNames[:], p.GetRoute()),
	}
	return r.err
}

// answerReader reads messages whose memory is reused: it copies their strings. The
// first one that is invalid sets err.
type answerReader struct {
	hints *hints
	err   error
}

func (r *answerReader) text(s string) string      { return r.valid(r.hints.strings.intern(s)) }
func (r *answerReader) requestID(s string) string { return r.valid(r.hints.requestID(s)) }
func (r *answerReader) scope(s string) string     { return r.valid(r.hints.scope(s)) }

func (r *answerReader) valid(s string, err error) string {
	if err != nil && r.err == nil {
		r.err = err
	}
	return s
}

func (r *answerReader) limits(in []*pb.LimitState) []LimitState {
	if len(in) == 0 {
		return nil
	}
	out := make([]LimitState, len(in))
	for i, l := range in {
		s := &out[i]
		s.Name = r.text(l.GetName())
		s.Dimension = r.text(l.GetDimension())
		s.Scope = r.scope(l.GetScope())
		s.Algorithm = r.text(l.GetAlgorithm())
		s.Limit = l.GetLimit()
		s.Capacity = l.GetCapacity()
		s.Remaining = l.GetRemaining()
		s.Debt = l.GetDebt()
		s.Window = l.GetWindow().AsDuration()
		s.Cost = l.GetCost()
		s.Shadow = l.GetShadow()
		s.Exceeded = l.GetExceeded()
		if at := l.GetResetAt(); at.GetSeconds() != 0 || at.GetNanos() != 0 {
			s.ResetAt = at.AsTime()
		}
	}
	return out
}

// The words of the wire's enumerations, by number.
var outcomeNames = [...]Outcome{"", Allowed, Degraded, Denied}

var reasonNames = [...]Reason{"", LimitExceeded, ExceedsCapacity, NoPrice, OwnerUnreachable, TableFull}

var routeNames = [...]Route{"", Local, Forward, Slice, Fallback}

var statusNames = [...]Status{"", Held, Settled, Cancelled, Expired}

// word returns the name of an enumeration's value, which may be newer than this
// client.
func word[W ~string, E ~int32](names []W, value E) W {
	if int(value) < 0 || int(value) >= len(names) {
		return "unknown"
	}
	return names[value]
}
