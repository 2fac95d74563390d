// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Answers to calls are appended to pooled memory. encoding/json, which writes all other bodies,
// would take structures of their own, and several pieces of memory for them.

var (
	outcomes = explain.EnumNamesOf(pb.Outcome_name, "OUTCOME_")
	routes   = explain.EnumNamesOf(pb.Route_name, "ROUTE_")
	statuses = explain.EnumNamesOf(pb.ReservationStatus_name, "RESERVATION_STATUS_")
)

// writeDecision answers a call of model with d. The call may have said how long it may wait.
func (a *api) writeDecision(w http.ResponseWriter, d *pb.Decision, model string, maxWait *durationpb.Duration) {
	now := a.now()
	x := explain.FromWire(d, model)
	if maxWait != nil {
		x.MaxWait = min(x.MaxWait, maxWait.AsDuration())
	}
	var h explain.Headers
	h.AddDecision(&x, now)
	h.AddOpenAI(x.Limits, now)
	status := http.StatusOK
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		status = http.StatusTooManyRequests
		h.AddAdvice(explain.AdviceOf(&x))
	}
	b := a.buffer()
	defer a.release(b)
	_, _ = b.Write(appendDecision(b.AvailableBuffer(), d, &x)) // which has no errors
	send(w, status, b.Bytes(), &h)
}

func (a *api) writeSettlement(w http.ResponseWriter, s *pb.Settlement) {
	b := a.buffer()
	defer a.release(b)
	_, _ = b.Write(appendSettlement(b.AvailableBuffer(), s))
	send(w, http.StatusOK, b.Bytes(), new(explain.Headers))
}

func (a *api) writePeek(w http.ResponseWriter, p *pb.PeekResponse) {
	b := a.buffer()
	defer a.release(b)
	_, _ = b.Write(appendPeek(b.AvailableBuffer(), p))
	send(w, http.StatusOK, b.Bytes(), new(explain.Headers))
}

// appendDecision appends the answer to check and reserve. A denial has more.
func appendDecision(b []byte, d *pb.Decision, x *explain.Decision) []byte {
	b = appendMember(append(b, '{'), "outcome", outcomes.Of(int32(d.GetOutcome())))
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		b = appendMember(b, "error", "rate_limit_exceeded")
		b = appendMember(b, "message", explain.Message(x))
		b = appendFacts(b, explain.FactsOf(x))
	}
	b = appendMember(b, "request_id", d.GetRequestId())
	b = appendMember(b, "tier", d.GetTier())
	if d.GrantedOutputTokens != nil {
		b = appendNumber(b, "granted_output_tokens", *d.GrantedOutputTokens)
	}
	b = appendTrue(b, "bound_output", d.GetBoundOutput())
	b = appendGiven(b, "priority", explain.ClassFromWire(d.GetPriority()))
	if d.Waited != nil {
		b = appendNumber(b, "waited_ms", int64(explain.Ceil(d.GetWaited().AsDuration(), time.Millisecond)/time.Millisecond)) // rounded up
	}
	b = appendNonzero(b, "place", d.GetPlace())
	b = appendGiven(b, "wait_refused", d.GetWaitRefused())
	return appendState(b, d)
}

// appendFacts appends what a denial has of its limit.
func appendFacts(b []byte, f explain.Facts) []byte {
	b = appendGiven(b, "reason", f.Reason)
	if len(f.RetryAfterSeconds) > 0 {
		b = append(appendName(b, "retry_after_seconds"), f.RetryAfterSeconds...)
	}
	if f.Limit != nil {
		b = appendNumber(b, "limit", *f.Limit)
	}
	if f.Remaining != nil {
		b = appendNumber(b, "remaining", *f.Remaining)
	}
	b = appendGiven(b, "reset_at", f.ResetAt)
	b = appendGiven(b, "dimension", f.Dimension)
	b = appendGiven(b, "name", f.Name)
	b = appendGiven(b, "scope", f.Scope)
	return appendGiven(b, "model", f.Model)
}

// appendSettlement appends the answer to settle and cancel.
func appendSettlement(b []byte, s *pb.Settlement) []byte {
	b = appendMember(append(b, '{'), "request_id", s.GetRequestId())
	b = appendMember(b, "status", statuses.Of(int32(s.GetStatus())))
	b = appendMember(b, "tier", s.GetTier())
	return appendState(b, s)
}

// appendPeek appends the answer to limits.
func appendPeek(b []byte, p *pb.PeekResponse) []byte {
	return appendState(appendMember(append(b, '{'), "tier", p.GetTier()), p)
}

// appendState appends what ends every answer: the limits, and where they come from.
func appendState(b []byte, answer interface {
	GetLimits() []*pb.LimitState
	GetPolicyVersion() string
	GetOwner() string
	GetRoute() pb.Route
},
) []byte {
	b = append(appendName(b, "limits"), '[')
	for i, l := range answer.GetLimits() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLimit(b, l)
	}
	b = append(b, ']')
	b = appendMember(b, "policy_version", answer.GetPolicyVersion())
	b = appendMember(b, "owner", answer.GetOwner())
	b = appendMember(b, "route", routes.Of(int32(answer.GetRoute())))
	return append(b, '}', '\n')
}

// appendLimit appends a limit, as limitJSON has it.
func appendLimit(b []byte, l *pb.LimitState) []byte {
	b = appendMember(append(b, '{'), "name", l.GetName())
	b = appendMember(b, "dimension", l.GetDimension())
	b = appendMember(b, "scope", l.GetScope())
	b = appendMember(b, "algorithm", l.GetAlgorithm())
	b = appendNumber(b, "limit", l.GetLimit())
	b = appendNumber(b, "remaining", l.GetRemaining())
	if at := timeOf(l.GetResetAt()); !at.IsZero() {
		b = append(explain.AppendTime(append(appendName(b, "reset_at"), '"'), at), '"')
	}
	b = appendNonzero(b, "debt", l.GetDebt())
	b = appendNonzero(b, "credit", l.GetCredit())
	b = appendTrue(b, "shadow", l.GetShadow())
	b = appendTrue(b, "exceeded", l.GetExceeded())
	b = appendTrue(b, "hidden", l.GetHidden())
	b = appendTrue(b, "per_model", l.GetPerModel())
	b = appendNonzero(b, "headroom", l.GetHeadroom())
	if l.MaxWait != nil {
		b = explain.AppendSeconds(appendName(b, "max_wait_seconds"), l.GetMaxWait().AsDuration())
	}
	return append(b, '}')
}

// limitJSON is a limit in other answers than those to calls.
type limitJSON struct {
	Name      string `json:"name"`
	Dimension string `json:"dimension"`
	Scope     string `json:"scope"`
	Algorithm string `json:"algorithm"`
	Limit     int64  `json:"limit"`
	Remaining int64  `json:"remaining"`
	ResetAt   string `json:"reset_at,omitempty"`
	Debt      int64  `json:"debt,omitempty"`
	Credit    int64  `json:"credit,omitempty"` // left of a one-off credit, of a peek only
	Shadow    bool   `json:"shadow,omitempty"`
	Exceeded  bool   `json:"exceeded,omitempty"`
	Hidden    bool   `json:"hidden,omitempty"`    // its numbers are not for callers
	PerModel  bool   `json:"per_model,omitempty"` // counts each model on its own

	Headroom       int64           `json:"headroom,omitempty"`         // what the class of the call must leave free
	MaxWaitSeconds json.RawMessage `json:"max_wait_seconds,omitempty"` // how long calls may wait for it
}

func limitOf(l *pb.LimitState) limitJSON {
	j := limitJSON{
		Name:      l.GetName(),
		Dimension: l.GetDimension(),
		Scope:     l.GetScope(),
		Algorithm: l.GetAlgorithm(),
		Limit:     l.GetLimit(),
		Remaining: l.GetRemaining(),
		ResetAt:   explain.FormatTime(timeOf(l.GetResetAt())),
		Debt:      l.GetDebt(),
		Credit:    l.GetCredit(),
		Shadow:    l.GetShadow(),
		Exceeded:  l.GetExceeded(),
		Hidden:    l.GetHidden(),
		PerModel:  l.GetPerModel(),
		Headroom:  l.GetHeadroom(),
	}
	if l.MaxWait != nil {
		j.MaxWaitSeconds = explain.Seconds(l.GetMaxWait().AsDuration())
	}
	return j
}

// timeOf is the zero time for no timestamp.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
