// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
)

// Pass lists the requests that are forwarded unmetered and without an identity.
// Metered endpoints are not affected.
type Pass []passRule

// passRule allows a method and a path, or all paths below a prefix.
type passRule struct {
	method string // empty: any
	path   string
	prefix bool // path ends in / and allows all paths below it
	all    bool // allows everything
}

// Safe has the rules that "safe" stands for: requests of clients before their first
// call, and of health checks. None of them runs a model.
const Safe = "GET /v1/models,GET /v1/models/*,GET /health,GET /version,OPTIONS /*"

// passAll allows everything.
func passAll() Pass { return Pass{{all: true}} }

// ParsePass parses rules. A rule is a method and a path, such as "GET /v1/models",
// a path with any method, such as "/v1/rerank", a prefix, such as "/files/*",
// "safe" for the rules of [Safe], or "all" for everything. Without rules, nothing is
// allowed.
func ParsePass(rules []string) (Pass, error) {
	p := Pass{}
	for _, text := range expandSafe(rules) {
		method, target, found := strings.Cut(strings.TrimSpace(text), " ")
		if !found {
			method, target = "", method
		}
		r := passRule{method: method, path: strings.TrimSpace(target)}
		if method == "" && r.path == "all" {
			p = append(p, passRule{all: true})
			continue
		}
		r.path, r.prefix = strings.CutSuffix(r.path, "*")
		switch {
		case method != "" && (strings.ToUpper(method) != method || strings.ContainsFunc(method, func(c rune) bool { return c < 'A' || c > 'Z' })):
			return nil, fmt.Errorf("must be a method and a path such as GET /v1/models, got %q", text)
		case !strings.HasPrefix(r.path, "/") || r.prefix && !strings.HasSuffix(r.path, "/"):
			return nil, fmt.Errorf("must be a path such as /v1/models or /files/*, or safe, or all, got %q", text)
		case path.Clean(r.path) != strings.TrimSuffix(r.path, "/") && r.path != "/":
			return nil, fmt.Errorf("must be a path without . or .. or empty segments, got %q", text)
		}
		p = append(p, r)
	}
	return p, nil
}

// expandSafe returns the rules with "safe" replaced by those of [Safe].
func expandSafe(rules []string) (all []string) {
	for _, text := range rules {
		if strings.TrimSpace(text) == "safe" {
			all = append(all, strings.Split(Safe, ",")...)
		} else {
			all = append(all, text)
		}
	}
	return all
}

// allows reports whether an unmetered request is forwarded.
func (p Pass) allows(method, target string) bool {
	if strings.ToUpper(method) != method {
		return false
	}
	return slices.ContainsFunc(p, func(r passRule) bool { return r.allows(method, target) })
}

func (r passRule) allows(method, target string) bool {
	if r.all {
		return true
	}
	if r.method == http.MethodGet && method == http.MethodHead {
		method = http.MethodGet
	}
	if r.method != "" && r.method != method {
		return false
	}
	return target == r.path || r.prefix && strings.HasPrefix(target, r.path) && path.Clean(target) == strings.TrimSuffix(target, "/")
}

// All reports whether every unmetered request is forwarded.
func (p Pass) All() bool {
	return slices.ContainsFunc(p, func(r passRule) bool { return r.all })
}
