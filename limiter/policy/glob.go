// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"
)

// A pattern is a name in which each * matches zero or more characters. A * cannot
// be escaped.
type pattern struct {
	text  string
	stars int
}

func newPattern(text string) pattern { return pattern{text, strings.Count(text, "*")} }

func (p pattern) literal() bool { return p.stars == 0 }

// compare orders patterns from most to least specific: first names without stars,
// then by more characters that are not *, then by fewer stars. Ties are broken by
// text, so the order does not depend on the order in a file.
func (p pattern) compare(q pattern) int {
	if p.literal() != q.literal() {
		if p.literal() {
			return -1
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(len(q.text)-q.stars, len(p.text)-p.stars),
		cmp.Compare(p.stars, q.stars),
		cmp.Compare(p.text, q.text),
	)
}

// match reports whether the pattern matches all of s. A star does not match the
// separator; separator 0 lets it match anything.
//
// It backtracks to the last star only: an earlier star never needs to match more
// than its shortest run, because the last star can match everything in between.
func (p pattern) match(s string, separator byte) bool {
	if p.literal() {
		return p.text == s
	}
	text := p.text
	i, j := 0, 0
	star, end := -1, 0 // index of the last star in text, and where its run ends in s
	for j < len(s) {
		switch {
		case i < len(text) && text[i] == '*':
			star, end = i, j
			i++
		case i < len(text) && text[i] == s[j]:
			i++
			j++
		case star >= 0 && (separator == 0 || s[end] != separator):
			end++
			i, j = star+1, end
		default:
			return false
		}
	}
	return strings.Trim(text[i:], "*") == ""
}

// overlaps reports whether some name matches both patterns, if stars match
// anything.
func (p pattern) overlaps(q pattern) bool {
	if p.literal() {
		return q.match(p.text, 0)
	}
	if q.literal() {
		return p.match(q.text, 0)
	}
	a, b := p.text, q.text
	// row[j] says whether some name matches both a[i:] and b[j:].
	next, row := make([]bool, len(b)+1), make([]bool, len(b)+1)
	for i := len(a); i >= 0; i-- {
		for j := len(b); j >= 0; j-- {
			switch {
			case i == len(a) && j == len(b):
				row[j] = true
			case i < len(a) && a[i] == '*':
				row[j] = next[j] || j < len(b) && row[j+1]
			case j < len(b) && b[j] == '*':
				row[j] = row[j+1] || i < len(a) && next[j]
			default:
				row[j] = i < len(a) && j < len(b) && a[i] == b[j] && next[j+1]
			}
		}
		next, row = row, next
	}
	return next[0]
}

// ranked maps a name to the value of the most specific pattern that matches it.
type ranked[T any] struct {
	exact   map[string]int   // index in entries of each name without stars
	entries []rankedEntry[T] // most specific first; entries[globs:] have stars
	globs   int
}

type rankedEntry[T any] struct {
	pattern pattern
	value   T
}

func rank[T any](entries []rankedEntry[T]) ranked[T] {
	r := ranked[T]{exact: map[string]int{}, entries: slices.Clone(entries)}
	slices.SortFunc(r.entries, func(a, b rankedEntry[T]) int { return a.pattern.compare(b.pattern) })
	for i, e := range r.entries {
		if e.pattern.literal() {
			r.exact[e.pattern.text] = i
			r.globs = i + 1
		}
	}
	return r
}

// find returns the entry for a name, nil if no pattern matches it.
func (r *ranked[T]) find(name string) *rankedEntry[T] {
	if i, ok := r.exact[name]; ok {
		return &r.entries[i]
	}
	for i := r.globs; i < len(r.entries); i++ {
		if r.entries[i].pattern.match(name, 0) {
			return &r.entries[i]
		}
	}
	return nil
}
