// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/coding"
	"github.com/bucketring/bucketring/rpc/internal/dialect"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// exchange is a request and the writer of its response.
type exchange struct {
	w       http.ResponseWriter
	r       *http.Request
	dialect llm.Dialect

	// For the report of a call without a decision.
	began  time.Time
	method string
	key    string // "": nobody was identified yet
	model  string
}

// rejection is the error response to a call that got no decision.
type rejection struct {
	status  int
	code    string
	message string // for the caller
	param   string // the invalid field or header; may be empty
	outcome string // label of the metric; empty: rejected
	discard bool   // the body was not read to its end
}

// reject writes the response of a rejection and counts it.
func (m *Middleware) reject(x exchange, why *rejection) {
	outcome := outcomeRejected
	if why.outcome != "" {
		outcome = why.outcome
	}
	m.metering.metrics.undecided(outcome, why.code)
	defer func() {
		took := time.Since(x.began)
		m.metering.report(&Result{
			Key: x.key, Model: x.model, Method: x.method, Outcome: client.Outcome(outcome), Reason: client.Reason(why.code),
			Status: why.status, FirstByte: took, Duration: took,
		})
	}()
	if why.status == http.StatusServiceUnavailable || why.status == http.StatusTooManyRequests {
		x.w.Header().Set("Retry-After", "1")
	}
	if why.code == codeUnsupportedEncoding {
		x.w.Header().Set("Accept-Encoding", coding.Accepted)
	}
	if why.discard {
		_ = http.NewResponseController(x.w).EnableFullDuplex() // else the server would read the body before it responds
		x.w.Header().Set("Connection", "close")
		defer x.discardBody()
	}
	dialect.WriteError(x.w, x.dialect, why.status, dialect.Problem{Code: why.code, Message: why.message, Param: why.param})
}

// discardBody reads what is left of a rejected body, after the response was written.
// Otherwise the server would close the connection, and the caller might see that
// instead of the response.
func (x exchange) discardBody() {
	_ = http.NewResponseController(x.w).Flush()
	if x.r.Header.Get("Expect") == "" { // with Expect, the caller has not sent the body yet
		_, _ = io.CopyN(io.Discard, x.r.Body, maxDiscard)
	}
}

// deny writes the response of a denied call and returns its status.
func (x exchange) deny(c *Call) int {
	w := &statusWriter{ResponseWriter: x.w}
	x.w.Header().Set(headerRequestID, c.RequestID())
	dialect.WriteDenial(w, x.dialect, &c.reservation.Decision, c.estimate.Model, time.Now())
	return w.status
}

// statusWriter records the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// setHeaders sets the headers that describe the decision of an allowed call.
func (x exchange) setHeaders(h http.Header, c *Call) {
	dialect.SetHeaders(h, x.dialect, &c.reservation.Decision, time.Now())
	h.Set(headerRequestID, c.RequestID())
	if c.undecided {
		h.Set(headerUndecided, "none")
	}
	if c.reservation.Outcome == client.Degraded {
		asked := int64(-1) // the policy's default
		if n := c.estimate.MaxOutputTokens; n != nil {
			asked = *n
		}
		dialect.SetDegradedHeaders(h, asked, c.Granted(), c.reservation.Binding)
	} else if c.boundAdded {
		dialect.SetDegradedHeaders(h, -1, c.Granted(), client.LimitState{})
	}
}

// identityRejection is the response to an error of Options.Identify.
func identityRejection(err error) *rejection {
	if own, ok := errors.AsType[*StatusError](err); ok {
		return statusRejection(own)
	}
	return &rejection{status: http.StatusUnauthorized, code: "invalid_api_key", message: err.Error()}
}

// estimateRejection is the response to an error of Options.Estimate.
func estimateRejection(err error) *rejection {
	if own, ok := errors.AsType[*StatusError](err); ok {
		return statusRejection(own)
	}
	return &rejection{status: http.StatusBadRequest, code: "invalid_request", message: err.Error()}
}

func statusRejection(e *StatusError) *rejection {
	status := e.Status
	if status < http.StatusBadRequest || status > 599 {
		status = http.StatusInternalServerError
	}
	return &rejection{status: status, code: "refused", message: e.Error()}
}

// fieldRejection is the response to a body that cannot be parsed.
func fieldRejection(err error) *rejection {
	r := &rejection{status: http.StatusBadRequest, code: "invalid_value", message: err.Error()}
	if field, ok := errors.AsType[*llm.FieldError](err); ok {
		r.param = field.Field
	}
	return r
}

// codeCancelled is the code of rejections of calls whose caller disconnected, or whose server
// stops, before there was a decision.
const codeCancelled = "cancelled"

var cancelledRejection = &rejection{
	status: http.StatusServiceUnavailable, code: codeCancelled,
	message: "The call was cancelled before the rate limiter made a decision, so it was not run.",
}

// limiterRejection is the response to an error of the limiter. Without a decision
// the call does not run.
func limiterRejection(err error) *rejection {
	if invalid, ok := errors.AsType[*client.InvalidError](err); ok {
		switch invalid.Field {
		case "key", "tier": // from the caller's identity, not from the request
			return &rejection{status: http.StatusUnauthorized, code: "invalid_api_key", message: "No limits are known for this caller: " + invalid.Message}
		}
		return &rejection{status: http.StatusBadRequest, code: "invalid_value", message: invalid.Message, param: invalid.Field}
	}
	if errors.Is(err, client.ErrOverloaded) {
		return &rejection{status: http.StatusServiceUnavailable, code: "limiter_overloaded", outcome: outcomeOverloaded, message: "The rate limiter is asked more than it answers in time, so the call was not run. Try again."}
	}
	if errors.Is(err, client.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &rejection{status: http.StatusServiceUnavailable, code: "limiter_unreachable", outcome: outcomeUnreachable, message: "The rate limiter cannot be reached, so the call was not run. Try again."}
	}
	return &rejection{status: http.StatusServiceUnavailable, code: "limiter_failed", outcome: outcomeUnreachable, message: "The rate limiter made no decision, so the call was not run. Try again."}
}
