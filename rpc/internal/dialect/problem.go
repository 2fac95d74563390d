// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"net/http"

	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// Problem is why a call was rejected or failed. A denial is written by [WriteDenial].
type Problem struct {
	Type      string // "": what SDKs expect with the status
	Code      string // OpenAI only; "": null
	Message   string
	Param     string // the invalid field; OpenAI only; "": null
	RequestID string
}

// WriteError answers a call for which no decision was made or that the upstream did
// not serve: an invalid field (400), no credentials (401), a body that is too large
// (413), an upstream or cluster that does not answer (502, 503, 504).
func WriteError(w http.ResponseWriter, d Dialect, status int, e Problem) {
	if e.Type == "" {
		e.Type = typeOf(d, status)
	}
	write(w, d, status, &explain.Problem{Type: e.Type, Code: e.Code, Message: e.Message, Param: e.Param, RequestID: e.RequestID})
}

// typeOf is the type that SDKs expect with a status.
func typeOf(d Dialect, status int) string {
	if d == llm.OpenAI {
		switch {
		case status == http.StatusTooManyRequests:
			return explain.Requests
		case status >= 500:
			return "server_error"
		}
		return "invalid_request_error"
	}
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case http.StatusServiceUnavailable, StatusOverloaded:
		return "overloaded_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

func write(w http.ResponseWriter, d Dialect, status int, e *explain.Problem) {
	h := w.Header()
	body, id := e.OpenAI, "X-Request-Id"
	if d == llm.Anthropic {
		body, id = e.Anthropic, "Request-Id"
	}
	if e.RequestID != "" {
		explain.Set(h, id, printable(e.RequestID))
	}
	text := body()
	explain.Set(h, "Content-Type", "application/json")
	explain.SetNumber(h, "Content-Length", int64(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // an error means that the caller is gone
}
