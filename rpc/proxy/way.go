// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"
	"path"
	"strings"

	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// A way is what becomes of a request, by its method and its path alone.
type way struct {
	metered bool
	known   bool // the path is that of a metered endpoint, whatever the method
	odd     bool // it could be read as one that is metered, and is not to pass
	dialect llm.Dialect
}

// wayOf decides about a request. One that the upstream could read as another than
// we do is refused, rather than free.
func (p *Proxy) wayOf(r *http.Request) way {
	target := r.URL.Path
	e, known := llm.EndpointOf(http.MethodPost, target)
	w := way{known: known, dialect: dialectOf(r.Header)}
	if known {
		w.dialect = e.Dialect()
	}
	switch {
	case r.URL.Opaque != "" || !strings.HasPrefix(target, "/"): // would be the target of the request upstream, as it is
		w.odd = true
	case known && !isClear(target):
		w.odd = true
	case known && r.Method == http.MethodPost:
		w.metered = true
	case known:
		w.odd = !isSafe(r.Method) || overrides(r.Header) || r.ContentLength != 0
	default:
		w.odd = disguised(target) || disguised(p.options.Upstream.Path+"/"+target)
	}
	return w
}

// isSafe reports whether a method changes nothing, and so runs nothing.
func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// overrides reports whether a header names a method that some servers take for
// the one of the request.
func overrides(h http.Header) bool {
	for _, name := range [...]string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
		if _, ok := h[name]; ok {
			return true
		}
	}
	return false
}

// isClear reports whether a path, its escapes resolved, means the same to every
// server. Slashes in a row do: who doesn't skip them has no such path.
func isClear(target string) bool {
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

// maxEscaped is how often a path may be escaped over again to be looked at.
const maxEscaped = 8

// disguised reports whether a path that is not metered might be read as one that
// is, by an upstream, or something before it, that is less exact than we are: in
// the case of letters, in kinds of slashes, with parameters, escaped once more, or
// cut off.
func disguised(target string) bool {
	for range maxEscaped {
		for _, reading := range [...]string{target, cutOff(target)} {
			if isAlias(loosely(reading)) {
				return true
			}
		}
		again := unescape(target)
		if again == target {
			return false
		}
		target = again
	}
	return true
}

// isAlias reports whether some server has a metered endpoint at a path: llama.cpp
// has them without /v1, and others know chat completions by more versions.
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

// cutOff is a path up to where its query would begin, or a string of C would end.
func cutOff(target string) string {
	if i := strings.IndexAny(target, "?#\x00"); i >= 0 {
		return target[:i]
	}
	return target
}

// loosely is a path as some servers read it.
func loosely(target string) string {
	segments := strings.Split(strings.ToLower(strings.ReplaceAll(target, `\`, "/")), "/")
	for i, segment := range segments {
		segment, _, _ = strings.Cut(segment, ";")
		segments[i] = strings.TrimFunc(segment, func(c rune) bool { return c <= ' ' })
	}
	return path.Clean("/" + strings.Join(segments, "/"))
}

// unescape resolves what is escaped, and leaves what is wrong.
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
