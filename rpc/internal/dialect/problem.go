// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// Problem is why a call gets no answer from the model, other than a denial.
type Problem struct {
	Type      string // "": what the dialect says for the status
	Code      string // OpenAI only; "": null
	Message   string
	Param     string // the field that is wrong; OpenAI only; "": null
	RequestID string
}

// problem is a Problem with the facts of a denial, if it is one.
type problem struct {
	Problem
	facts
}

// Error answers a call that is refused for another reason than its cost: a wrong
// field (400), no credentials (401), too large (413), or an upstream or cluster that
// does not answer (502, 503, 504).
func Error(w http.ResponseWriter, d Dialect, status int, e Problem) {
	if e.Type == "" {
		e.Type = typeOf(d, status)
	}
	write(w, d, status, problem{Problem: e}, e.RequestID)
}

// typeOf is the type that SDKs expect with a status.
func typeOf(d Dialect, status int) string {
	if d == llm.OpenAI {
		switch {
		case status == http.StatusTooManyRequests:
			return requests
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

// The error bodies.
type (
	openAIBody struct {
		Error openAIError `json:"error"`
	}
	openAIError struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
		facts
		RequestID string `json:"request_id,omitempty"`
	}
	anthropicBody struct {
		Type      string         `json:"type"`
		Error     anthropicError `json:"error"`
		RequestID string         `json:"request_id,omitempty"`
	}
	anthropicError struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		facts
	}
)

func write(w http.ResponseWriter, d Dialect, status int, e problem, requestID string) {
	h := w.Header()
	var body any
	if d == llm.Anthropic {
		body = anthropicBody{"error", anthropicError{e.Type, e.Message, e.facts}, requestID}
		if requestID != "" {
			set(h, "Request-Id", printable(requestID))
		}
	} else {
		body = openAIBody{openAIError{e.Message, e.Type, orNull(e.Param), orNull(e.Code), e.facts, requestID}}
		if requestID != "" {
			set(h, "X-Request-Id", printable(requestID))
		}
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		panic("an error body cannot be encoded: " + err.Error()) // it has texts and numbers only
	}
	set(h, "Content-Type", "application/json")
	set(h, "Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the caller may have left
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
