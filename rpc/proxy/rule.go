// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
)

// rule matches a method and a path, all paths below a prefix, or all that end with a
// suffix.
type rule struct {
	method string // empty: any
	path   string
	prefix bool // path ends in / and matches all paths below it
	suffix bool // path matches with anything before it
	all    bool // matches everything
	safe   bool // of "safe"
}

// parseRule parses a method and a path, such as "GET /v1/models". The method may be
// absent. The path may end in /*, for all paths below it, or start with */, for any
// path before it.
func parseRule(text string) (rule, error) {
	method, target, found := strings.Cut(strings.TrimSpace(text), " ")
	if !found {
		method, target = "", method
	}
	r := rule{method: method, path: strings.TrimSpace(target)}
	r.path, r.suffix = strings.CutPrefix(r.path, "*")
	r.path, r.prefix = strings.CutSuffix(r.path, "*")
	switch {
	case method != "" && (strings.ToUpper(method) != method || strings.ContainsFunc(method, func(c rune) bool { return c < 'A' || c > 'Z' })):
		return r, fmt.Errorf("must be a method and a path such as GET /v1/models, got %q", text)
	case !strings.HasPrefix(r.path, "/") || r.prefix && !strings.HasSuffix(r.path, "/"):
		return r, fmt.Errorf("must be a path such as /v1/models or /files/*, got %q", text)
	case r.prefix && r.suffix:
		return r, fmt.Errorf("must have * at one end only, got %q", text)
	case !isPlain(r.path) || strings.Contains(r.path, "*"):
		return r, fmt.Errorf("must be a path without any of *;?#%%\\ inside, got %q", text)
	case path.Clean(r.path) != strings.TrimSuffix(r.path, "/") && r.path != "/":
		return r, fmt.Errorf("must be a path without . or .. or empty segments, got %q", text)
	}
	return r, nil
}

// matches reports whether every server takes a request for one of the rule.
func (r *rule) matches(method, target string) bool {
	return r.all || r.matchesMethod(method) && isPlain(target) && path.Clean(target) == trimSlash(target) && r.matchesPath(target)
}

func (r *rule) matchesMethod(method string) bool {
	if r.method == http.MethodGet && method == http.MethodHead {
		return true
	}
	return r.method == "" && strings.ToUpper(method) == method || r.method == method
}

// matchesPath compares paths that are clean but for a slash at the end.
func (r *rule) matchesPath(target string) bool {
	switch {
	case r.prefix:
		return strings.HasPrefix(target, r.path)
	case r.suffix:
		return strings.HasSuffix(trimSlash(target), trimSlash(r.path))
	}
	return trimSlash(target) == trimSlash(r.path)
}

// trimSlash removes a slash at the end.
func trimSlash(target string) string {
	if len(target) > 1 {
		return strings.TrimSuffix(target, "/")
	}
	return target
}

// Meter lists requests to endpoints that the proxy does not know and meters by count.
type Meter []rule

// ParseMeter parses rules: a method and a path, such as "POST /v1/rerank", or a path
// that ends in /*, such as "POST /v1/audio/*", or starts with */. The method is
// required.
func ParseMeter(rules []string) (Meter, error) {
	m := Meter{}
	for _, text := range rules {
		r, err := parseRule(text)
		switch {
		case err != nil:
			return nil, err
		case r.method == "" || isSafe(r.method):
			return nil, fmt.Errorf("must begin with a method such as POST, got %q", text)
		}
		m = append(m, r)
	}
	return m, nil
}

// matches reports whether a request is metered by count.
func (m Meter) matches(method, target string) bool {
	return slices.ContainsFunc(m, func(r rule) bool { return r.matches(method, target) })
}

// hasPath reports whether a clean path in lower case is that of a rule, whatever the
// case and the method of the rule.
func (m Meter) hasPath(target string) bool {
	return slices.ContainsFunc(m, func(r rule) bool {
		r.path = strings.ToLower(r.path)
		return r.matchesPath(target) || r.prefix && target+"/" == r.path
	})
}
