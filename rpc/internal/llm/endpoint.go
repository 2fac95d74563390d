// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"net/http"
	"path"
	"strings"
)

// Dialect is a family of wire formats: of errors, headers and bodies.
type Dialect uint8

// The dialects.
const (
	OpenAI Dialect = iota
	Anthropic
)

// String returns the dialect's name.
func (d Dialect) String() string {
	if d == Anthropic {
		return "anthropic"
	}
	return "openai"
}

// Endpoint is an API method that runs a model.
type Endpoint uint8

// The endpoints.
const (
	ChatCompletions Endpoint = iota
	Completions
	Embeddings
	Responses
	Messages
)

// endpoints describes each endpoint.
var endpoints = [...]struct {
	path, name string
	bound      string // the output bound that is added to a request without one
	fields     map[string]field
}{
	ChatCompletions: {"/v1/chat/completions", "chat_completions", "max_completion_tokens", chatFields},
	Completions:     {"/v1/completions", "completions", "max_tokens", completionFields},
	Embeddings:      {"/v1/embeddings", "embeddings", "", embeddingFields},
	Responses:       {"/v1/responses", "responses", "max_output_tokens", responseFields},
	Messages:        {"/v1/messages", "messages", "max_tokens", messageFields},
}

// EndpointOf returns the endpoint of a request. The path may have a prefix, and
// repeated or trailing slashes, which servers tend to ignore.
func EndpointOf(method, requestPath string) (Endpoint, bool) {
	if method != http.MethodPost {
		return 0, false
	}
	clean := path.Clean(requestPath)
	for e := range endpoints {
		if strings.HasSuffix(clean, endpoints[e].path) {
			return Endpoint(e), true
		}
	}
	return 0, false
}

// Dialect returns the dialect of the endpoint.
func (e Endpoint) Dialect() Dialect {
	if e == Messages {
		return Anthropic
	}
	return OpenAI
}

// String returns the endpoint's name, such as chat_completions.
func (e Endpoint) String() string {
	if int(e) >= len(endpoints) {
		return "unknown"
	}
	return endpoints[e].name
}
