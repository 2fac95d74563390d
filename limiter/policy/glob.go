// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"
)

// A pattern is a name in which each * stands for any characters, none
// included. There is no escape.
type pattern struct {
	text  string
	stars int
}

func newPattern(text string) pattern { return pattern{text, strings.Count(text, "*")} }

func (p pattern) literal() bool { return p.stars == 0 }

// compare sorts the more specific pattern first: names before globs, then by
// the number of characters that are not *, then fewer stars, then by text, so
// that the order never depends on the order of a file.
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

// match reports whether the pattern covers all of s. With separator /, a star
// does not cross one; separator 0 lets stars match anything.
//
// Only the last star is ever stretched: what an earlier one matched can stay as
// short as possible, because the last one can take up whatever is in between.
func (p pattern) match(s string, separator byte) bool {
	if p.literal() {
		return p.text == s
	}
	text := p.text
	i, j := 0, 0
	star, mark := -1, 0 // where text had its last star, and how far it reached in s
	for j < len(s) {
		switch {
		case i < len(text) && text[i] == '*':
			star, mark = i, j
			i++
		case i < len(text) && text[i] == s[j]:
			i++
			j++
		case star >= 0 && (separator == 0 || s[mark] != separator):
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(text[i:], "*") == ""
}

// overlaps reports whether some name matches both patterns, stars matching
// anything.
func (p pattern) overlaps(q pattern) bool {
	if p.literal() {
		return q.match(p.text, 0)
	}
	if q.literal() {
		return p.match(q.text, 0)
	}
	a, b := p.text, q.text
	// row[j] says whether a[i:] and b[j:] have a name in common.
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

// ranked maps names to values by the most specific pattern. The zero value has
// no patterns.
type ranked[T any] struct {
	exact   map[string]int
	entries []rankedEntry[T] // most specific first; those from globs on have a star
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
