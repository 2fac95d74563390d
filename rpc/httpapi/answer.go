// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

// decisionJSON is the answer to check and reserve.
type decisionJSON struct {
	Outcome string `json:"outcome"`
	*denialJSON
	RequestID           string `json:"request_id"`
	Tier                string `json:"tier"`
	GrantedOutputTokens *int64 `json:"granted_output_tokens,omitempty"`
	BoundOutput         bool   `json:"bound_output,omitempty"`
	stateJSON
}

// denialJSON is what a denial has in addition.
type denialJSON struct {
	Error   string `json:"error"`
	Message string `json:"message"`
	explain.Facts
}

// settlementJSON is the answer to settle and cancel.
type settlementJSON struct {
	RequestID string `json:"request_id"`
	Status    string `json:"status"`
	peekJSON
}

// peekJSON is the answer to limits.
type peekJSON struct {
	Tier string `json:"tier"`
	stateJSON
}

// stateJSON ends every answer: the limits, and where they come from.
type stateJSON struct {
	Limits        []limitJSON `json:"limits"`
	PolicyVersion string      `json:"policy_version"`
	Owner         string      `json:"owner"`
	Route         string      `json:"route"`
}

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
}

// writeDecision answers a call of model with d.
func (a *api) writeDecision(w http.ResponseWriter, d *pb.Decision, model string) {
	h, now := w.Header(), a.now()
	x := explain.FromWire(d, model)
	explain.SetHeaders(h, &x, now)
	explain.SetOpenAIHeaders(h, x.Limits, now)
	j := &decisionJSON{
		Outcome:             enumName(d.GetOutcome().String(), "OUTCOME_"),
		RequestID:           d.GetRequestId(),
		Tier:                d.GetTier(),
		GrantedOutputTokens: d.GrantedOutputTokens,
		BoundOutput:         d.GetBoundOutput(),
		stateJSON:           stateOf(d),
	}
	status := http.StatusOK
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		status = http.StatusTooManyRequests
		explain.SetAdvice(h, explain.AdviceOf(&x))
		j.denialJSON = &denialJSON{Error: "rate_limit_exceeded", Message: explain.Message(&x), Facts: explain.FactsOf(&x)}
	}
	a.write(w, status, j)
}

func (a *api) writeSettlement(w http.ResponseWriter, s *pb.Settlement) {
	a.write(w, http.StatusOK, &settlementJSON{
		RequestID: s.GetRequestId(),
		Status:    enumName(s.GetStatus().String(), "RESERVATION_STATUS_"),
		peekJSON:  peekJSON{s.GetTier(), stateOf(s)},
	})
}

func (a *api) writePeek(w http.ResponseWriter, p *pb.PeekResponse) {
	a.write(w, http.StatusOK, &peekJSON{p.GetTier(), stateOf(p)})
}

// stateOf converts what all answers have.
func stateOf(answer interface {
	GetLimits() []*pb.LimitState
	GetPolicyVersion() string
	GetOwner() string
	GetRoute() pb.Route
},
) stateJSON {
	s := stateJSON{
		Limits:        make([]limitJSON, len(answer.GetLimits())),
		PolicyVersion: answer.GetPolicyVersion(),
		Owner:         answer.GetOwner(),
		Route:         enumName(answer.GetRoute().String(), "ROUTE_"),
	}
	for i, l := range answer.GetLimits() {
		s.Limits[i] = limitOf(l)
	}
	return s
}

func limitOf(l *pb.LimitState) limitJSON {
	return limitJSON{
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
	}
}

// enumName is a value of a protobuf enum as JSON has it: OUTCOME_ALLOWED is allowed.
func enumName(name, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(name, prefix))
}

// timeOf is the zero time for no timestamp.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
