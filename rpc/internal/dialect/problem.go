// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"bytes"
	"encoding/json"
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

// problem is a Problem and, for a denial, its facts.
type problem struct {
	Problem
	explain.Facts
}

// WriteError answers a call for which no decision was made or that the upstream did
// not serve: an invalid field (400), no credentials (401), a body that is too large
// (413), an upstream or cluster that does not answer (502, 503, 504).
func WriteError(w http.ResponseWriter, d Dialect, status int, e Problem) {
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
		explain.Facts
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
		explain.Facts
	}
)

func write(w http.ResponseWriter, d Dialect, status int, e problem, requestID string) {
	h := w.Header()
	var body any
	if d == llm.Anthropic {
		body = anthropicBody{"error", anthropicError{e.Type, e.Message, e.Facts}, requestID}
		if requestID != "" {
			explain.Set(h, "Request-Id", printable(requestID))
		}
	} else {
		body = openAIBody{openAIError{e.Message, e.Type, orNull(e.Param), orNull(e.Code), e.Facts, requestID}}
		if requestID != "" {
			explain.Set(h, "X-Request-Id", printable(requestID))
		}
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		panic("error body cannot be encoded: " + err.Error()) // impossible: it has strings and numbers only
	}
	explain.Set(h, "Content-Type", "application/json")
	explain.SetNumber(h, "Content-Length", int64(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // an error means that the caller is gone
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
