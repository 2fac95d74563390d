// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/rpc/internal/dialect"
)

// preflightAge is how long, in seconds, browsers may keep the answer to a preflight
// request. It is the most that all of them allow.
const preflightAge = "600"

// Origins are the web origins whose pages may read the responses of a proxy.
type Origins struct {
	any  bool
	list []string
}

// ParseOrigins parses "*", or origins such as https://chat.example.org. Without any,
// pages of other origins cannot read the responses of the proxy.
func ParseOrigins(texts []string) (Origins, error) {
	var o Origins
	for _, text := range texts {
		if text == "*" {
			o.any = true
			continue
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != text || strings.ToLower(text) != text || strings.ContainsAny(u.Host, "*@ ") {
			return Origins{}, fmt.Errorf("must be * or an origin such as https://chat.example.org, in lower case and without a path, got %q", text)
		}
		o.list = append(o.list, text)
	}
	if o.any && len(o.list) > 0 {
		return Origins{}, fmt.Errorf("must not have other origins beside *, got %q", texts)
	}
	return o, nil
}

func (o Origins) none() bool { return !o.any && len(o.list) == 0 }

// allowed returns the value of Access-Control-Allow-Origin for a request, or "".
func (o Origins) allowed(origin string) string {
	switch {
	case origin == "":
		return ""
	case o.any:
		return "*"
	case slices.Contains(o.list, origin):
		return origin
	}
	return ""
}

// isPreflight reports whether a browser asks what a page of another origin may send.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// answerPreflight allows a page of an allowed origin to send what it asks for: what it
// may do is decided when it does it.
func (o Origins) answerPreflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Vary"] = []string{"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
	if allowed := o.allowed(r.Header.Get("Origin")); allowed != "" {
		h.Set("Access-Control-Allow-Origin", allowed)
		if method := r.Header.Get("Access-Control-Request-Method"); isToken(method) {
			h.Set("Access-Control-Allow-Methods", method)
		}
		if names := r.Header.Get("Access-Control-Request-Headers"); isTokenList(names) {
			h.Set("Access-Control-Allow-Headers", names)
		}
		h.Set("Access-Control-Max-Age", preflightAge)
	}
	w.WriteHeader(http.StatusNoContent)
}

func isTokenList(text string) bool {
	for name := range strings.SplitSeq(text, ",") {
		if !isToken(strings.TrimSpace(name)) {
			return false
		}
	}
	return true
}

// corsWriter adds the headers that let pages of other origins read a response, unless
// the upstream has decided that.
type corsWriter struct {
	http.ResponseWriter
	origins Origins
	origin  string // of the request
	started bool
}

// Unwrap supports [http.ResponseController].
func (w *corsWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *corsWriter) WriteHeader(status int) {
	if status >= http.StatusOK || status == http.StatusSwitchingProtocols {
		w.start()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *corsWriter) Write(b []byte) (int, error) {
	w.start()
	return w.ResponseWriter.Write(b)
}

// FlushError supports [http.ResponseController].
func (w *corsWriter) FlushError() error {
	w.start()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (w *corsWriter) Flush() { _ = w.FlushError() }

// start sets the headers of the response, once.
func (w *corsWriter) start() {
	if w.started {
		return
	}
	w.started = true
	h := w.Header()
	if len(h["Access-Control-Allow-Origin"]) > 0 {
		return
	}
	if !w.origins.any && !variesByOrigin(h) {
		h.Add("Vary", "Origin")
	}
	allowed := w.origins.allowed(w.origin)
	if allowed == "" {
		return
	}
	h["Access-Control-Allow-Origin"] = []string{allowed}
	if exposed := dialect.Exposed(h); len(exposed) > 0 {
		h["Access-Control-Expose-Headers"] = []string{strings.Join(exposed, ", ")}
	}
}

func variesByOrigin(h http.Header) bool {
	for _, value := range h["Vary"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.TrimSpace(name); name == "*" || strings.EqualFold(name, "Origin") {
				return true
			}
		}
	}
	return false
}
