// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// Pass lists the requests that are forwarded unmetered and without an identity.
// Metered endpoints are not affected.
type Pass []rule

// Safe has the rules that "safe" stands for: requests of clients before their first
// call, of health checks and of browsers, and those that count the tokens of a prompt.
// None of them runs a model.
const Safe = "GET */models,GET /v1/models/*,GET /models/*,GET /health,GET /version,OPTIONS /*," +
	"POST */messages/count_tokens,POST */responses/input_tokens"

// Opened says what All allows, for messages.
const Opened = "everything that is not metered, for everyone and free of charge: endpoints that run a model (rerank, score, audio, images, batches, /generate, /invocations, /api/chat) and those that administer the model server"

// ParsePass parses rules. A rule is a method and a path, such as "GET /v1/models", a
// path with any method, such as "/v1/tokenize", a prefix, such as "/files/*", a suffix,
// such as "GET */models", "safe" for the rules of [Safe], or "all" for everything.
// Without rules, nothing is allowed.
func ParsePass(rules []string) (Pass, error) {
	p := Pass{}
	for _, text := range rules {
		switch strings.TrimSpace(text) {
		case "all":
			p = append(p, rule{all: true})
		case "safe":
			p = append(p, safe()...)
		default:
			r, err := parseRule(text)
			if err != nil {
				return nil, fmt.Errorf("%w; safe and all are rules, too", err)
			}
			p = append(p, r)
		}
	}
	return p, nil
}

// safe returns the rules of [Safe].
func safe() (p Pass) {
	for text := range strings.SplitSeq(Safe, ",") {
		r, err := parseRule(text)
		if err != nil {
			panic("proxy: rules of safe: " + err.Error())
		}
		r.safe = true
		p = append(p, r)
	}
	return p
}

// allows reports whether an unmetered request is forwarded. Only "all" allows a request
// that some servers run with another method: a GET with a body, or one that overrides its
// method. What "safe" allows has no form, which may name another method, and is not below
// a path that runs a model.
func (p Pass) allows(r *http.Request) bool {
	if strings.ToUpper(r.Method) != r.Method {
		return false
	}
	asOther := isSafe(r.Method) && r.ContentLength != 0 || overridesMethod(r)
	return slices.ContainsFunc(p, func(allowed rule) bool {
		switch {
		case !allowed.matches(r.Method, r.URL.Path):
			return false
		case allowed.safe && !isSafe(r.Method):
			return !asOther && !hasForm(r.Header) && !isBelowEndpoint(strings.TrimSuffix(trimSlash(r.URL.Path), allowed.path))
		}
		return !asOther || allowed.all
	})
}

// refusesForm reports whether a request is not forwarded only because its Content-Type is
// that of a form, or cannot be read.
func (p Pass) refusesForm(r *http.Request) bool {
	if !hasForm(r.Header) {
		return false
	}
	other := *r
	other.Header = r.Header.Clone()
	other.Header.Del("Content-Type")
	return p.allows(&other)
}

// isBelowEndpoint reports whether a path is that of a metered endpoint, or below one.
// Servers that route by prefix run both.
func isBelowEndpoint(target string) bool {
	for i := range len(target) + 1 {
		if i == len(target) || target[i] == '/' {
			if _, ok := llm.EndpointOf(http.MethodPost, strings.ToLower(target[:i])); ok {
				return true
			}
		}
	}
	return false
}

// All reports whether every unmetered request is forwarded, or every POST.
func (p Pass) All() bool {
	return slices.ContainsFunc(p, func(r rule) bool {
		return r.all || r.prefix && r.path == "/" && (r.method == "" || r.method == http.MethodPost)
	})
}
