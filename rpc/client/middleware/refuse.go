// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/dialect"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// An answer is where a request is answered, and in which dialect.
type answer struct {
	w       http.ResponseWriter
	r       *http.Request
	dialect llm.Dialect
}

// A refusal is why a call is not served, other than a denial.
type refusal struct {
	status  int
	code    string
	message string // for the caller
	param   string // the field at fault
	outcome string // label; "": refused
}

// refuse answers why a call is not served.
func (m *Middleware) refuse(a answer, why *refusal) {
	outcome := outcomeRefused
	if why.outcome != "" {
		outcome = why.outcome
	}
	m.metering.metrics.undecided(outcome)
	if why.status == http.StatusServiceUnavailable {
		a.w.Header().Set("Retry-After", "1")
	}
	dialect.WriteError(a.w, a.dialect, why.status, dialect.Problem{Code: why.code, Message: why.message, Param: why.param})
}

// deny answers a denial and returns its status.
func (a answer) deny(c *Call) int {
	w := &statusWriter{ResponseWriter: a.w}
	a.w.Header().Set(headerRequestID, c.RequestID())
	dialect.WriteDenial(w, a.dialect, &c.reservation.Decision, c.estimate.Model, time.Now())
	return w.status
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// tell sets the headers of a call that may run.
func (a answer) tell(h http.Header, c *Call) {
	dialect.SetHeaders(h, a.dialect, &c.reservation.Decision, time.Now())
	h.Set(headerRequestID, c.RequestID())
	if c.reservation.Outcome == client.Degraded {
		asked := c.estimate.MaxOutputTokens
		if asked == 0 {
			asked = -1 // the policy's
		}
		dialect.SetDegradedHeaders(h, asked, c.Granted(), c.reservation.Binding)
	}
}

func unknownCaller(err error) *refusal {
	if own, ok := errors.AsType[*StatusError](err); ok {
		return ofStatus(own)
	}
	return &refusal{status: http.StatusUnauthorized, code: "invalid_api_key", message: err.Error()}
}

func badCost(err error) *refusal {
	if own, ok := errors.AsType[*StatusError](err); ok {
		return ofStatus(own)
	}
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", message: err.Error()}
}

func ofStatus(e *StatusError) *refusal {
	status := e.Status
	if status < http.StatusBadRequest || status > 599 {
		status = http.StatusInternalServerError
	}
	return &refusal{status: status, code: "refused", message: e.Error()}
}

func badField(err error) *refusal {
	r := &refusal{status: http.StatusBadRequest, code: "invalid_value", message: err.Error()}
	if field, ok := errors.AsType[*llm.FieldError](err); ok {
		r.param = field.Field
	}
	return r
}

// undecided explains why the limiter made no decision. Nothing runs without one.
func undecided(err error) *refusal {
	if invalid, ok := errors.AsType[*client.InvalidError](err); ok {
		switch invalid.Field {
		case "key", "tier": // not what the caller has sent, but who it is
			return &refusal{status: http.StatusUnauthorized, code: "invalid_api_key", message: "No limits are known for this caller: " + invalid.Message}
		}
		return &refusal{status: http.StatusBadRequest, code: "invalid_value", message: invalid.Message, param: invalid.Field}
	}
	if errors.Is(err, client.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &refusal{status: http.StatusServiceUnavailable, code: "limiter_unreachable", outcome: outcomeUnreachable, message: "The rate limiter cannot be reached, so the call was not run. Try again."}
	}
	return &refusal{status: http.StatusServiceUnavailable, code: "limiter_failed", outcome: outcomeUnreachable, message: "The rate limiter made no decision, so the call was not run. Try again."}
}
