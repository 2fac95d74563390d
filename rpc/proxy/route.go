// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"
	"path"
	"strings"

	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// route is the classification of a request by its method, path and headers.
type route struct {
	metered   bool
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
	case isEndpoint && !isPlain(target):
		rt.ambiguous = true
	case isEndpoint && r.Method == http.MethodPost:
		rt.metered = true
	case isEndpoint:
		rt.ambiguous = !isSafe(r.Method) || overridesMethod(r.Header) || r.ContentLength != 0
	default:
		rt.ambiguous = mayBeEndpoint(target) || mayBeEndpoint(p.options.Upstream.Path+"/"+target)
	}
	return rt
}

// isSafe reports whether a method is safe in the sense of HTTP, and so runs no
// model.
func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// overridesMethod reports whether a header overrides the method at some servers.
func overridesMethod(h http.Header) bool {
	for _, name := range [...]string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
		if _, ok := h[name]; ok {
			return true
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

// maxUnescapes bounds how often mayBeEndpoint unescapes a path.
const maxUnescapes = 8

// mayBeEndpoint reports whether a lenient server might take a path for that of a
// metered endpoint: because it ignores case, parameters or white space, accepts
// backslashes, unescapes the path again, or truncates it.
func mayBeEndpoint(target string) bool {
	for range maxUnescapes {
		for _, reading := range [...]string{target, truncate(target)} {
			if isAlias(normalize(reading)) {
				return true
			}
		}
		unescaped := unescape(target)
		if unescaped == target {
			return false
		}
		target = unescaped
	}
	return true
}

// isAlias reports whether some server has a metered endpoint at a path. llama.cpp
// has them without /v1, others have chat completions under other versions.
func isAlias(target string) bool {
	if strings.HasSuffix(target, "/chat/completions") {
		return true
	}
	for _, spelling := range [...]string{target, "/v1" + target} {
		if _, ok := llm.EndpointOf(http.MethodPost, spelling); ok {
			return true
		}
	}
	return false
}

// truncate cuts a path before the first query separator, fragment separator or
// NUL byte.
func truncate(target string) string {
	if i := strings.IndexAny(target, "?#\x00"); i >= 0 {
		return target[:i]
	}
	return target
}

// normalize returns a path as the most lenient server reads it.
func normalize(target string) string {
	segments := strings.Split(strings.ToLower(strings.ReplaceAll(target, `\`, "/")), "/")
	for i, segment := range segments {
		segment, _, _ = strings.Cut(segment, ";")
		segments[i] = strings.TrimFunc(segment, func(c rune) bool { return c <= ' ' })
	}
	return path.Clean("/" + strings.Join(segments, "/"))
}

// unescape resolves the valid percent escapes of a path and keeps invalid ones.
func unescape(target string) string {
	if !strings.Contains(target, "%") {
		return target
	}
	var b strings.Builder
	for i := 0; i < len(target); i++ {
		if target[i] == '%' && i+2 < len(target) {
			high, ok1 := hexDigit(target[i+1])
			low, ok2 := hexDigit(target[i+2])
			if ok1 && ok2 {
				b.WriteByte(high<<4 | low)
				i += 2
				continue
			}
		}
		b.WriteByte(target[i])
	}
	return b.String()
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
