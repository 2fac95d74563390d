// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// problem is an error and its JSON body.
type problem struct {
	status  int
	why     server.Rejection // "": it was a call, which its service has counted
	retry   time.Duration    // when the call may be sent again; 0: it is not said
	Code    string           `json:"error"`
	Field   string           `json:"field,omitempty"`
	Message string           `json:"message"`
}

// Error implements error.
func (p *problem) Error() string { return p.Message }

var internalProblem = &problem{
	status:  http.StatusInternalServerError,
	Code:    "internal",
	Message: "internal error; see the log of the node",
}

// invalid rejects a field: "key: must be a string, got 1".
func invalid(field, what string) *problem {
	return &problem{
		status:  http.StatusBadRequest,
		Code:    "invalid_request",
		Field:   field,
		Message: field + ": " + what,
		why:     server.InvalidField,
	}
}

// becauseOf is invalid for another reason than an invalid field.
func becauseOf(why server.Rejection, field, what string) *problem {
	p := invalid(field, what)
	p.why = why
	return p
}

// problemOf converts an error of the service. It is nil for an internal error.
func problemOf(e *pb.Error) *problem {
	p := &problem{Field: e.GetField(), Message: e.GetMessage()}
	switch codes.Code(e.GetCode()) {
	case codes.InvalidArgument:
		p.status, p.Code = http.StatusBadRequest, "invalid_request"
	case codes.NotFound:
		p.status, p.Code = http.StatusNotFound, server.ReasonUnknownReservation
	case codes.AlreadyExists:
		p.status, p.Code = http.StatusConflict, server.ReasonConflict
	case codes.ResourceExhausted:
		if e.GetRetryAfterMs() == 0 {
			return nil
		}
		p.status, p.Code = http.StatusServiceUnavailable, server.ReasonOverloaded
		p.retry = time.Duration(e.GetRetryAfterMs()) * time.Millisecond
	case codes.Unauthenticated:
		p.status, p.Code = http.StatusUnauthorized, "unauthenticated"
	case codes.PermissionDenied:
		p.status, p.Code = http.StatusForbidden, "forbidden"
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		p.status, p.Code = http.StatusServiceUnavailable, "unavailable"
	case codes.FailedPrecondition:
		p.status, p.Code = http.StatusConflict, "failed_precondition"
	default:
		return nil
	}
	p.Message = strings.TrimPrefix(p.Message, p.Code+": ")
	return p
}

// refusedProblem is the problem of a request that may not be made.
func refusedProblem(w http.ResponseWriter, e *auth.Error) *problem {
	p := &problem{status: http.StatusForbidden, Code: "forbidden", Message: e.Message, retry: e.RetryAfter}
	switch e.Code {
	case codes.Unauthenticated:
		p.status, p.Code = http.StatusUnauthorized, "unauthenticated"
		for _, challenge := range e.Challenges {
			w.Header().Add("WWW-Authenticate", challenge)
		}
	case codes.ResourceExhausted:
		p.status, p.Code = http.StatusTooManyRequests, "too_many_failures"
	}
	return p
}

// writeError answers with an error.
func (a *api) writeError(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	if refused, ok := errors.AsType[*auth.Error](err); ok {
		p = refusedProblem(w, refused)
	} else if !errors.As(err, &p) {
		p = problemOf(server.Describe(err))
	}
	if p == nil {
		a.log.Error("http call failed", "path", r.URL.Path, "error", err)
		p = internalProblem
	}
	a.rejections.Count(server.HTTPInterface, p.why)
	if p.retry > 0 {
		explain.SetRetryAfter(w.Header(), p.retry)
	}
	a.write(w, p.status, p)
}

// write answers with a JSON body that must not be cached.
func (a *api) write(w http.ResponseWriter, status int, body any) {
	b := a.buffer()
	defer a.release(b)
	encoder := json.NewEncoder(b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		a.log.Error("http answer could not be encoded", "error", err)
		http.Error(w, internalProblem.Message, http.StatusInternalServerError)
		return
	}
	send(w, status, b.Bytes(), new(explain.Headers))
}

// send answers with a body that must not be cached, and with headers.
func send(w http.ResponseWriter, status int, body []byte, h *explain.Headers) {
	h.Add("Content-Type", "application/json")
	h.Add("Cache-Control", "no-store")
	h.AddNumber("Content-Length", int64(len(body)))
	h.SetIn(w.Header())
	w.WriteHeader(status)
	_, _ = w.Write(body) // an error means that the caller is gone
}
