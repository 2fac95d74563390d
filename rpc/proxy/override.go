// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"mime"
	"net/http"
	"strings"
)

// maxEscapes bounds how often an escaped query is unescaped. One that is escaped more
// often counts as one that overrides the method.
const maxEscapes = 4

// overridesMethod reports whether a header or a parameter of the query overrides the
// method at some servers, in whatever letters and escapes.
func overridesMethod(r *http.Request) bool {
	for name := range r.Header {
		if isMethodOverride(name) {
			return true
		}
	}
	query := r.URL.RawQuery
	for range maxEscapes {
		for parameter := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == ';' || c == '?' }) {
			name, _, _ := strings.Cut(parameter, "=")
			if isMethodOverride(name) {
				return true
			}
		}
		plain := unescape(query)
		if plain == query {
			return false
		}
		query = plain
	}
	return true
}

// isMethodOverride reports whether a header or parameter of that name overrides the
// method. Servers ignore case there, take - and _ for each other, and some replace other
// characters by _ or end a name with them.
func isMethodOverride(name string) bool {
	name = strings.Map(func(c rune) rune {
		switch c {
		case '-', '.', ' ', '+':
			return '_'
		}
		return c
	}, strings.ToLower(strings.TrimSpace(name)))
	name, _, _ = strings.Cut(name, "[")
	name, _, _ = strings.Cut(name, "\x00")
	switch strings.Trim(name, "_") {
	case "x_http_method_override", "x_http_method", "x_method_override", "http_method_override", "method_override", "httpmethod", "$httpmethod", "x_original_method":
		return true
	case "method":
		return strings.HasPrefix(name, "_")
	}
	return false
}

// overridesPath reports whether a header overrides the path at some servers.
func overridesPath(h http.Header) bool {
	for name := range h {
		switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
		case "x-original-url", "x-rewrite-url":
			return true
		}
	}
	return false
}

// hasForm reports whether the body is a form, in which some servers look for another
// method. A type that cannot be read counts as one.
func hasForm(h http.Header) bool {
	for _, value := range h["Content-Type"] {
		kind, _, err := mime.ParseMediaType(value)
		if err != nil || kind == "application/x-www-form-urlencoded" || strings.HasPrefix(kind, "multipart/") {
			return true
		}
	}
	return false
}
