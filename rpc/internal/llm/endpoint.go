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
	// Other is an API method of whose request only the model is read. Its cost is what its
	// answer reports. No path belongs to it.
	Other
)

// endpoints describes each endpoint.
var endpoints = [...]struct {
	name   string
	bound  string // the output bound that is added to a request without one
	fields map[string]field
}{
	ChatCompletions: {"chat_completions", "max_completion_tokens", chatFields},
	Completions:     {"completions", "max_tokens", completionFields},
	Embeddings:      {"embeddings", "", embeddingFields},
	Responses:       {"responses", "max_output_tokens", responseFields},
	Messages:        {"messages", "max_tokens", messageFields},
	Other:           {"other", "", otherFields},
}

// paths are the ends of the paths of endpoints. An end stands before those that it
// ends with.
var paths = [...]struct {
	end string
	e   Endpoint
}{
	{"/chat/completions", ChatCompletions},
	{"/completions", Completions},
	{"/embeddings", Embeddings},
	{"/responses", Responses},
	{"/responses/compact", Responses},
	{"/messages", Messages},
}

// EndpointOf returns the endpoint of a request. Servers have the endpoints under many
// prefixes, such as /v1, /v1beta/openai, /openai/deployments/NAME and none at all, so
// whatever is before the name of an endpoint is ignored, and so are repeated and
// trailing slashes.
func EndpointOf(method, requestPath string) (Endpoint, bool) {
	if method != http.MethodPost {
		return 0, false
	}
	clean := path.Clean(requestPath)
	for i := range paths {
		if strings.HasSuffix(clean, paths[i].end) {
			return paths[i].e, true
		}
	}
	return 0, false
}

// answerKind is what the answer of an endpoint that is not known has.
type answerKind uint8

const (
	anyAnswer    answerKind = iota
	imagesAnswer            // a list of images
	inputAnswer             // scores or vectors: the model generates nothing
)

// answers are the ends of the paths of such endpoints.
var answers = [...]struct {
	end  string
	kind answerKind
}{
	{"/images/generations", imagesAnswer},
	{"/images/edits", imagesAnswer},
	{"/images/variations", imagesAnswer},
	{"/rerank", inputAnswer},
	{"/reranking", inputAnswer},
	{"/score", inputAnswer},
	{"/pooling", inputAnswer},
	{"/classify", inputAnswer},
	{"/embed", inputAnswer},
	{"/embedding", inputAnswer},
	{"/moderations", inputAnswer},
}

// answerOf returns what the answer to a request with that path has.
func answerOf(requestPath string) answerKind {
	clean := strings.ToLower(path.Clean("/" + requestPath))
	for i := range answers {
		if strings.HasSuffix(clean, answers[i].end) {
			return answers[i].kind
		}
	}
	return anyAnswer
}

// ModelOfPath returns the model that the path of a request names, which servers with
// such paths use whatever the body says: NAME in /openai/deployments/NAME/…,
// /v1/engines/NAME/… and /v1beta/models/NAME:…. It is empty if the path names none.
func ModelOfPath(requestPath string) string {
	clean := path.Clean("/" + requestPath)
	for i := range paths {
		if prefix, ok := strings.CutSuffix(clean, paths[i].end); ok {
			clean = prefix
			break
		}
	}
	lower := strings.ToLower(clean) // some servers ignore case there
	if len(lower) != len(clean) {
		lower = clean
	}
	if i := strings.Index(lower, deploymentsParent); i >= 0 {
		name, _, _ := strings.Cut(clean[i+len(deploymentsParent):], "/") // more may follow, such as /extensions
		return name
	}
	if i := strings.Index(lower, enginesParent); i >= 0 {
		return clean[i+len(enginesParent):]
	}
	if i := strings.Index(lower, modelsParent); i >= 0 {
		if name, _, ok := strings.Cut(clean[i+len(modelsParent):], ":"); ok {
			return name
		}
	}
	return ""
}

const (
	deploymentsParent = "/deployments/"
	enginesParent     = "/engines/"
	modelsParent      = "/models/"
)

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
