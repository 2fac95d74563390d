// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Outcome is the result of a decision.
type Outcome string

// The outcomes.
const (
	Allowed  Outcome = "allowed"
	Degraded Outcome = "degraded" // allowed with a smaller grant
	Denied   Outcome = "denied"
)

// Reason is why a call was denied, "" if it was not.
type Reason string

// The reasons.
const (
	LimitExceeded    Reason = "limit_exceeded"
	ExceedsCapacity  Reason = "exceeds_capacity"  // the cost is above the whole capacity of a limit
	NoPrice          Reason = "no_price"          // a spend limit applies and the model has no price
	OwnerUnreachable Reason = "owner_unreachable" // and the policy does not allow a decision without it
	TableFull        Reason = "table_full"        // no room for the state of a new key
	IDsFull          Reason = "ids_full"          // the live reservations of the root fill its share of the request ids
)

// Route is how a decision was made.
type Route string

// The routes.
const (
	Local    Route = "local"    // the asked node owns the key
	Forward  Route = "forward"  // the asked node asked the owner
	Slice    Route = "slice"    // from a slice that the owner lent to the asked node, or to this client
	Fallback Route = "fallback" // without the owner, in the mode that the policy declares
)

// Priority is the class of a call: what it must leave free of limits that keep headroom, and
// whom it goes before among those that wait.
type Priority string

// The classes, the most urgent first. A tier has a default and a highest class.
const (
	Interactive Priority = "interactive"
	Standard    Priority = "standard"
	Batch       Priority = "batch"
)

// Status is the state of a reservation.
type Status string

// The states of a reservation.
const (
	Held      Status = "held"
	Settled   Status = "settled"
	Cancelled Status = "cancelled"
	Expired   Status = "expired" // the lease ended; a late settle still corrects the charge
)

// Decision is the answer to a check or a reserve.
type Decision struct {
	Outcome   Outcome
	Reason    Reason
	RequestID string
	Tier      string // of the most specific level of the key
	Model     string // of the call

	// RetryAfter is how long until the cost would fit, without other calls. 0: the
	// call was not denied, or the Reason rules out a retry.
	RetryAfter time.Duration
	// Binding is the limit that denied the call or, if the call may run, the one
	// with the smallest share left. Zero if there is none.
	Binding LimitState
	Limits  []LimitState

	PolicyVersion string
	Owner         string // the member that decided
	Route         Route
	// Replayed means that this is the answer to an earlier call with the same
	// request id, and nothing more was charged.
	Replayed bool
	// BoundOutput means that the policy bounds the output of all calls: a call without a
	// bound of its own must be run with the granted output as its bound. A degraded call
	// must be in any case.
	BoundOutput bool

	// Waited is how long the call waited until it was admitted, or its time was over. 0: it
	// did not wait.
	Waited time.Duration
	// Place is the place in line when the call arrived there: 1 is the next. 0: it did not
	// wait.
	Place int64
	// Priority is the class of the call. "": neither the call, its tier nor a limit says
	// anything of classes or waiting.
	Priority Priority
	// WaitRefused is why a call that might have waited was denied at once: limit_full, key_full
	// or line_full, because as many calls wait as may; client_full, because as many calls of
	// this client wait at one node as may; or too_late, because it would not fit in time.
	// RetryAfter is then the time with those who wait already.
	WaitRefused string
	// MaxWait is how long the denied call said that it may wait. Nil: it said nothing, or was
	// not denied.
	MaxWait *time.Duration
}

// Allowed reports whether the call may run: the outcome is allowed or degraded.
func (d Decision) Allowed() bool { return d.Outcome == Allowed || d.Outcome == Degraded }

// Denied reports whether the call must not run. It is the opposite of Allowed.
func (d Decision) Denied() bool { return !d.Allowed() }

// LimitState is the state of one limit after a call.
type LimitState struct {
	Name      string
	Dimension string
	Scope     string // key path of the level
	Algorithm string
	Limit     int64         // amount per window
	Capacity  int64         // the most that can be used at once
	Remaining int64         // 0 in debt
	Debt      int64         // use beyond the capacity
	Window    time.Duration // 0 for concurrent
	ResetAt   time.Time     // when all of it is available again; zero for concurrent
	Cost      int64         // of this call
	Credit    int64         // left of a one-off credit; of a peek only
	Shadow    bool          // counted and reported, but never denies
	Exceeded  bool          // denies the call, or would do so without Shadow
	Hidden    bool          // its numbers are not for callers: the policy says show: false
	// PerModel means that the limit counts each model on its own. It is not set for
	// reservations that were made earlier.
	PerModel bool
	Headroom int64         // what the class of the call must leave free; Remaining is without it
	MaxWait  time.Duration // how long calls may wait at the limit; 0: they may not
}

// Settlement is the answer to a settle or a progress.
type Settlement struct {
	RequestID string
	Status    Status
	Tier      string
	// Limits of the reservation. Their Cost is the total charge of the call.
	Limits        []LimitState
	PolicyVersion string
	Owner         string
	// Route is fallback if the owner could not be reached. The node then reports the
	// usage to it later.
	Route Route
}

// String says for people what became of the call and what it is charged, without the numbers
// of hidden limits: "settled: 1,212 tokens, 1 request".
func (s Settlement) String() string {
	limits := make([]explain.Limit, len(s.Limits))
	for i := range s.Limits {
		limits[i] = explain.Limit(s.Limits[i])
	}
	text := string(s.Status)
	if charge := explain.Charge(limits); charge != "" {
		text += ": " + charge
	}
	if s.Route == Fallback {
		text += "; the owner could not be reached, and a node reports it later"
	}
	return text
}

// State is the state of every limit of a key.
type State struct {
	Tier          string
	Limits        []LimitState
	PolicyVersion string
	Owner         string
	Route         Route
}

// setAnswer sets the answer, with the request id of the node: it differs from the one that
// was sent if the reservation was made in fallback. The message may be reused after.
func (c *decisionCall) setAnswer(d *pb.Decision) error { return c.set(d, codec.Values{}) }

// set is setAnswer for a decision whose limits may be in values.
func (c *decisionCall) set(d *pb.Decision, values codec.Values) error {
	r := answerReader{hints: &c.hints}
	c.granted = d.GetGrantedOutputTokens()
	a := &c.answer
	*a = Decision{
		Outcome:       word(outcomeNames[:], d.GetOutcome()),
		Reason:        word(reasonNames[:], d.GetReason()),
		RequestID:     r.requestID(d.GetRequestId()),
		Tier:          r.text(d.GetTier()),
		Limits:        r.limits(d.GetLimits(), values),
		PolicyVersion: r.text(d.GetPolicyVersion()),
		Owner:         r.text(d.GetOwner()),
		Route:         word(routeNames[:], d.GetRoute()),
		Replayed:      d.GetReplayed(),
		BoundOutput:   d.GetBoundOutput(),
		Waited:        max(d.GetWaited().AsDuration(), 0),
		Place:         d.GetPlace(),
		Priority:      word(priorityNames[:], d.GetPriority()),
		WaitRefused:   r.text(d.GetWaitRefused()),
	}
	c.mayWait = d.GetMayWait()
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

func (c *settlementCall) setAnswer(s *pb.Settlement) error { return c.set(s, codec.Values{}) }

func (c *settlementCall) set(s *pb.Settlement, values codec.Values) error {
	r := answerReader{hints: &c.hints}
	c.answer = Settlement{
		RequestID:     r.requestID(s.GetRequestId()),
		Status:        word(statusNames[:], s.GetStatus()),
		Tier:          r.text(s.GetTier()),
		Limits:        r.limits(s.GetLimits(), values),
		PolicyVersion: r.text(s.GetPolicyVersion()),
		Owner:         r.text(s.GetOwner()),
		Route:         word(routeNames[:], s.GetRoute()),
	}
	return r.err
}

func (c *stateCall) setAnswer(p *pb.PeekResponse) error { return c.set(p, codec.Values{}) }

func (c *stateCall) set(p *pb.PeekResponse, values codec.Values) error {
	r := answerReader{hints: &c.hints}
	c.answer = State{
		Tier:          r.text(p.GetTier()),
		Limits:        r.limits(p.GetLimits(), values),
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

// limits returns those of an answer, which are in one of the arguments.
func (r *answerReader) limits(in []*pb.LimitState, values codec.Values) []LimitState {
	if values.Len() > 0 {
		return r.defined(values)
	}
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
		s.Hidden = l.GetHidden()
		s.PerModel = l.GetPerModel()
		s.Credit = l.GetCredit()
		s.Exceeded = l.GetExceeded()
		s.Headroom = l.GetHeadroom()
		s.MaxWait = l.GetMaxWait().AsDuration()
		if at := l.GetResetAt(); at.GetSeconds() != 0 || at.GetNanos() != 0 {
			s.ResetAt = at.AsTime()
		}
	}
	return out
}

// defined returns limits that refer to definitions. It copies no text.
func (r *answerReader) defined(values codec.Values) []LimitState {
	out := make([]LimitState, values.Len())
	for i := range out {
		var v codec.State
		if err := values.Next(&v); err != nil {
			r.err = cmp.Or(r.err, err)
			return nil
		}
		s := &out[i]
		s.Name, s.Dimension, s.Algorithm, s.Scope = v.Name, v.Dimension, v.Algorithm, v.Scope
		s.Limit, s.Capacity, s.Window, s.MaxWait = v.Limit, v.Capacity, v.Window, v.MaxWait
		s.Shadow, s.Hidden, s.Exceeded, s.PerModel = v.Shadow, v.Hidden, v.Exceeded, v.PerModel
		s.Remaining, s.Debt, s.Cost, s.Headroom, s.Credit = v.Remaining, v.Debt, v.Cost, v.Headroom, v.Credit
		if v.Reset != 0 {
			s.ResetAt = time.Unix(0, v.Reset).UTC()
		}
	}
	return out
}

// The names of the enumerations in the wire format, by number.
var outcomeNames = [...]Outcome{"", Allowed, Degraded, Denied}

var reasonNames = [...]Reason{"", LimitExceeded, ExceedsCapacity, NoPrice, OwnerUnreachable, TableFull, IDsFull}

var routeNames = [...]Route{"", Local, Forward, Slice, Fallback}

var statusNames = [...]Status{"", Held, Settled, Cancelled, Expired}

var priorityNames = [...]Priority{"", Interactive, Standard, Batch}

// word returns the name of an enumeration value, "unknown" if it is newer than this
// client.
func word[N ~string, E ~int32](names []N, value E) N {
	if int(value) < 0 || int(value) >= len(names) {
		return "unknown"
	}
	return names[value]
}
