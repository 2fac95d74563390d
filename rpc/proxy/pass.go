// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
)

// Pass is what may go upstream unmetered.
type Pass []passRule

// passRule is a method and a path, or the beginning of one.
type passRule struct {
	method string // "": any
	path   string
	below  bool // path ends in /: all below it, too
	all    bool // everything
}

// Safe is the rules of "safe": what clients ask before they call, and what probes
// do. None of it runs a model.
const Safe = "GET /v1/models,GET /v1/models/*,GET /health,GET /version,OPTIONS /*"

// passAll is everything.
func passAll() Pass { return Pass{{all: true}} }

// ParsePass reads rules such as "GET /v1/models", "/v1/rerank" for any method,
// "/files/*" for all below, "safe" for the rules of [Safe], and "all" for
// everything. No rules pass nothing.
func ParsePass(rules []string) (Pass, error) {
	p := Pass{}
	for _, text := range withSafe(rules) {
		method, target, found := strings.Cut(strings.TrimSpace(text), " ")
		if !found {
			method, target = "", method
		}
		r := passRule{method: method, path: strings.TrimSpace(target)}
		if method == "" && r.path == "all" {
			p = append(p, passRule{all: true})
			continue
		}
		r.path, r.below = strings.CutSuffix(r.path, "*")
		switch {
		case method != "" && (strings.ToUpper(method) != method || strings.ContainsFunc(method, func(c rune) bool { return c < 'A' || c > 'Z' })):
			return nil, fmt.Errorf("must be a method and a path, as GET /v1/models, got %q", text)
		case !strings.HasPrefix(r.path, "/") || r.below && !strings.HasSuffix(r.path, "/"):
			return nil, fmt.Errorf("must be a path, as /v1/models or /files/*, or all, got %q", text)
		case path.Clean(r.path) != strings.TrimSuffix(r.path, "/") && r.path != "/":
			return nil, fmt.Errorf("must be a clean path, got %q", text)
		}
		p = append(p, r)
	}
	return p, nil
}

// withSafe returns the rules with those of [Safe] in the place of "safe".
func withSafe(rules []string) (all []string) {
	for _, text := range rules {
		if strings.TrimSpace(text) == "safe" {
			all = append(all, strings.Split(Safe, ",")...)
		} else {
			all = append(all, text)
		}
	}
	return all
}

// allows reports whether a request passes that is not metered.
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
	return target == r.path || r.below && strings.HasPrefix(target, r.path) && path.Clean(target) == strings.TrimSuffix(target, "/")
}

// All reports whether everything passes that is not metered.
func (p Pass) All() bool {
	return slices.ContainsFunc(p, func(r passRule) bool { return r.all })
}
