// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"encoding/json"
)

// A Problem is an error in the bodies of OpenAI and Anthropic. Facts are of a denial.
type Problem struct {
	Type      string
	Code      string // OpenAI only; "": null
	Message   string
	Param     string // the invalid field; OpenAI only; "": null
	RequestID string
	Facts
}

// OpenAIDenial is the problem of a denial as OpenAI words it.
func OpenAIDenial(d *Decision) Problem {
	p := Problem{Message: Message(d), Facts: FactsOf(d)}
	switch {
	case NotQuota(d.Reason):
		p.Type, p.Code = "server_error", d.Reason
	case d.Reason == noPrice, p.Dimension == Spend:
		p.Type, p.Code = "insufficient_quota", "insufficient_quota"
	default:
		p.Type, p.Code = openAIType(p.Dimension), "rate_limit_exceeded"
	}
	return p
}

// openAIType is OpenAI's error type for a limit of a dimension.
func openAIType(dimension string) string {
	switch dimension {
	case Tokens, InputTokens, OutputTokens:
		return Tokens
	case Requests, Concurrent, "":
		return Requests
	}
	return dimension // the operator's own
}

// AnthropicDenial is the problem of a denial as Anthropic words it.
func AnthropicDenial(d *Decision) Problem {
	p := Problem{Type: "rate_limit_error", Message: Message(d), Facts: FactsOf(d)}
	if NotQuota(d.Reason) {
		p.Type = "overloaded_error"
	}
	return p
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
		Facts
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
		Facts
	}
)

// OpenAI returns the body of OpenAI.
func (p *Problem) OpenAI() []byte {
	return encode(openAIBody{openAIError{p.Message, p.Type, orNull(p.Param), orNull(p.Code), p.Facts, p.RequestID}})
}

// Anthropic returns the body of Anthropic.
func (p *Problem) Anthropic() []byte {
	return encode(anthropicBody{"error", anthropicError{p.Type, p.Message, p.Facts}, p.RequestID})
}

func encode(body any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		panic("error body cannot be encoded: " + err.Error()) // impossible: it has strings and numbers only
	}
	return b.Bytes()
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
