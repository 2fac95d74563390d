// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/rpc/internal/message"
	"github.com/bucketring/bucketring/rpc/pb"
)

// decisionJSON is the answer to check and reserve.
type decisionJSON struct {
	Outcome string `json:"outcome"`
	*denialJSON
	RequestID           string      `json:"request_id"`
	Tier                string      `json:"tier"`
	GrantedOutputTokens *int64      `json:"granted_output_tokens,omitempty"`
	Limits              []limitJSON `json:"limits"`
	PolicyVersion       string      `json:"policy_version"`
	Owner               string      `json:"owner"`
	Route               string      `json:"route"`
}

// denialJSON is what a 429 says more: the binding limit, if there is one, and
// what to do about it.
type denialJSON struct {
	Error             string          `json:"error"`
	Message           string          `json:"message"`
	Reason            string          `json:"reason"`
	RetryAfterSeconds json.RawMessage `json:"retry_after_seconds,omitempty"`
	Limit             *int64          `json:"limit,omitempty"`
	Remaining         *int64          `json:"remaining,omitempty"`
	ResetAt           string          `json:"reset_at,omitempty"`
	Dimension         string          `json:"dimension,omitempty"`
	Scope             string          `json:"scope,omitempty"`
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
	Shadow    bool   `json:"shadow,omitempty"`
	Exceeded  bool   `json:"exceeded,omitempty"`
}

// settlementJSON is the answer to settle and cancel.
type settlementJSON struct {
	RequestID     string      `json:"request_id"`
	Status        string      `json:"status"`
	Tier          string      `json:"tier"`
	Limits        []limitJSON `json:"limits"`
	PolicyVersion string      `json:"policy_version"`
	Owner         string      `json:"owner"`
	Route         string      `json:"route"`
}

// peekJSON is the answer to limits.
type peekJSON struct {
	Tier          string      `json:"tier"`
	Limits        []limitJSON `json:"limits"`
	PolicyVersion string      `json:"policy_version"`
	Owner         string      `json:"owner"`
	Route         string      `json:"route"`
}

// writeDecision answers with d, for a call of model.
func (a *api) writeDecision(w http.ResponseWriter, d *pb.Decision, model string) {
	a.setHeaders(w.Header(), d)
	status := http.StatusOK
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		status = http.StatusTooManyRequests
	}
	a.write(w, status, decisionOf(d, model))
}

func decisionOf(d *pb.Decision, model string) *decisionJSON {
	j := &decisionJSON{
		Outcome:             word(d.GetOutcome().String(), "OUTCOME_"),
		RequestID:           d.GetRequestId(),
		Tier:                d.GetTier(),
		GrantedOutputTokens: d.GrantedOutputTokens,
		Limits:              limitsOf(d.GetLimits()),
		PolicyVersion:       d.GetPolicyVersion(),
		Owner:               d.GetOwner(),
		Route:               word(d.GetRoute().String(), "ROUTE_"),
	}
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		j.denialJSON = denialOf(d, model)
	}
	return j
}

func denialOf(d *pb.Decision, model string) *denialJSON {
	j := &denialJSON{
		Error:   "rate_limit_exceeded",
		Message: denialMessage(d, model),
		Reason:  word(d.GetReason().String(), "REASON_"),
	}
	if d.RetryAfter != nil {
		j.RetryAfterSeconds = secondsOf(d.RetryAfter)
	}
	if l := binding(d); l != nil {
		j.Limit, j.Remaining = &l.Limit, &l.Remaining
		j.ResetAt = instant(l.ResetAt)
		j.Dimension, j.Scope = l.Dimension, l.Scope
	}
	return j
}

// denialMessage says why a call of model was denied.
func denialMessage(d *pb.Decision, model string) string {
	m := message.Denied{Reason: word(d.GetReason().String(), "REASON_"), Model: model}
	if l := binding(d); l != nil {
		m.Limit = &message.Limit{
			Dimension: l.GetDimension(),
			Algorithm: l.GetAlgorithm(),
			Limit:     l.GetLimit(),
			Capacity:  l.GetCapacity(),
			Remaining: l.GetRemaining(),
			Debt:      l.GetDebt(),
			Cost:      l.GetCost(),
			Window:    l.GetWindow().AsDuration(),
		}
	}
	return message.Of(m)
}

func settlementOf(s *pb.Settlement) *settlementJSON {
	return &settlementJSON{
		RequestID:     s.GetRequestId(),
		Status:        word(s.GetStatus().String(), "RESERVATION_STATUS_"),
		Tier:          s.GetTier(),
		Limits:        limitsOf(s.GetLimits()),
		PolicyVersion: s.GetPolicyVersion(),
		Owner:         s.GetOwner(),
		Route:         word(s.GetRoute().String(), "ROUTE_"),
	}
}

func peekOf(p *pb.PeekResponse) *peekJSON {
	return &peekJSON{
		Tier:          p.GetTier(),
		Limits:        limitsOf(p.GetLimits()),
		PolicyVersion: p.GetPolicyVersion(),
		Owner:         p.GetOwner(),
		Route:         word(p.GetRoute().String(), "ROUTE_"),
	}
}

func limitsOf(states []*pb.LimitState) []limitJSON {
	list := make([]limitJSON, len(states))
	for i, s := range states {
		list[i] = limitJSON{
			Name:      s.GetName(),
			Dimension: s.GetDimension(),
			Scope:     s.GetScope(),
			Algorithm: s.GetAlgorithm(),
			Limit:     s.GetLimit(),
			Remaining: s.GetRemaining(),
			ResetAt:   instant(s.GetResetAt()),
			Debt:      s.GetDebt(),
			Shadow:    s.GetShadow(),
			Exceeded:  s.GetExceeded(),
		}
	}
	return list
}

// binding returns the binding limit of d, or nil.
func binding(d *pb.Decision) *pb.LimitState {
	if d.Binding == nil || *d.Binding < 0 || int(*d.Binding) >= len(d.Limits) {
		return nil
	}
	return d.Limits[*d.Binding]
}

// word is a value of a protobuf enum as JSON says it: OUTCOME_ALLOWED is allowed.
func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// instant is RFC 3339 in UTC, rounded up to the millisecond, or "" if t is nil.
func instant(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Add(time.Millisecond - 1).Truncate(time.Millisecond).Format("2006-01-02T15:04:05.999Z07:00")
}

// secondsOf is d in decimal seconds, rounded up to the millisecond.
func secondsOf(d *durationpb.Duration) json.RawMessage {
	return message.Seconds(d.AsDuration())
}

// milliseconds and seconds round up.
func milliseconds(d time.Duration) int64 { return ceil(int64(d), int64(time.Millisecond)) }
func seconds(d time.Duration) int64      { return ceil(int64(d), int64(time.Second)) }

func ceil(n, unit int64) int64 {
	q := n / unit
	if n%unit > 0 {
		q++
	}
	return q
}
