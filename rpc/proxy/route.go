// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// route is the classification of a request by its method, path and headers.
type route struct {
	metered   bool // by its body and its response, or by count
	counted   bool // metered by count
	endpoint  bool // the path is that of a metered endpoint, whatever the method
	ambiguous bool // the upstream might treat the request as a metered call; reject it
	dialect   llm.Dialect
}

// classify decides how to handle a request. A request that the upstream may
// interpret differently is ambiguous, so that it cannot run a model unmetered.
func (p *Proxy) classify(r *http.Request) route {
	target := r.URL.Path
	e, isEndpoint := llm.EndpointOf(http.MethodPost, target)
	rt := route{endpoint: isEndpoint, dialect: dialectOf(r.Header)}
	if isEndpoint {
		rt.dialect = e.Dialect()
	}
	switch {
	case r.URL.Opaque != "" || !strings.HasPrefix(target, "/"): // ReverseProxy would send it as the request target, unchanged
		rt.ambiguous = true
	case overridesPath(r.Header) || isEndpoint && !isPlain(target) || !p.isOnly(e, isEndpoint, r.URL):
		rt.ambiguous = true
	case isEndpoint && r.Method == http.MethodPost:
		rt.metered = true
	case isEndpoint:
		rt.ambiguous = mayBePost(r)
	case p.options.Meter.matches(r.Method, target):
		rt.metered, rt.counted = true, true
	default:
		rt.ambiguous = p.mayBeCounted(r)
	}
	return rt
}

// isSafe reports whether a method is safe in the sense of HTTP, and so runs no
// model.
func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// mayBePost reports whether some server runs a request that is not a POST like one:
// because it has a body, or overrides its method.
func mayBePost(r *http.Request) bool {
	return !isSafe(r.Method) || r.ContentLength != 0 || overridesMethod(r)
}

// isOnly reports whether every server takes a path for that of endpoint e, or of no
// endpoint, and for one below the path of the upstream.
func (p *Proxy) isOnly(e llm.Endpoint, isEndpoint bool, u *url.URL) bool {
	for _, base := range [...]string{"", p.options.Upstream.Path} {
		read, ok := readings(base, u)
		if !ok {
			return false
		}
		for _, reading := range read {
			if got, is := llm.EndpointOf(http.MethodPost, reading); is && (!isEndpoint || got != e) {
				return false
			}
			if base != "" && leaves(base, reading) {
				return false
			}
		}
	}
	return true
}

// leaves reports whether dot segments lead a path out of that of the upstream, to
// requests that no setting is about.
func leaves(base, target string) bool {
	base = strings.TrimSuffix(normalize(base), "/") + "/"
	return isLiteral(base) && !strings.HasPrefix(normalize(target)+"/", base)
}

// mayBeCounted reports whether some server takes a request, which Meter does not match,
// for one that it matches.
func (p *Proxy) mayBeCounted(r *http.Request) bool {
	if len(p.options.Meter) == 0 || !mayBePost(r) {
		return false
	}
	prefix := normalize(p.options.Upstream.Path)
	for _, base := range [...]string{"", p.options.Upstream.Path} {
		read, ok := readings(base, r.URL)
		if !ok {
			return true
		}
		for _, reading := range read {
			reading = normalize(reading)
			if base != "" {
				reading, ok = strings.CutPrefix(reading, strings.TrimSuffix(prefix, "/"))
				if !ok {
					continue
				}
			}
			if p.options.Meter.hasPath(reading) {
				return true
			}
		}
	}
	return false
}

// isPlain reports whether every server interprets an unescaped path in the same
// way. Repeated slashes are plain: a server that does not skip them has no such
// path.
func isPlain(target string) bool {
	if strings.ContainsFunc(target, func(c rune) bool { return c < ' ' || strings.ContainsRune(`;?#%\`, c) }) {
		return false
	}
	for segment := range strings.SplitSeq(target, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}
