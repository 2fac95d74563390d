// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/internal/yamldoc"
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
// It takes time linear in s: the text between two stars is searched once, because the
// first place that fits leaves most of s to what follows.
func (p pattern) match(s string, separator byte) bool {
	if p.literal() {
		return p.text == s
	}
	if separator == 0 {
		return matchGlob(p.text, s)
	}
	text := p.text
	for {
		i, j := strings.IndexByte(text, separator), strings.IndexByte(s, separator)
		if i < 0 || j < 0 {
			return i < 0 && j < 0 && matchGlob(text, s)
		}
		if !matchGlob(text[:i], s[:j]) {
			return false
		}
		text, s = text[i+1:], s[j+1:]
	}
}

func matchGlob(text, s string) bool {
	star := strings.IndexByte(text, '*')
	if star < 0 {
		return text == s
	}
	if !strings.HasPrefix(s, text[:star]) {
		return false
	}
	for {
		s, text = s[star:], text[star+1:]
		if star = strings.IndexByte(text, '*'); star < 0 {
			return strings.HasSuffix(s, text)
		}
		found := strings.Index(s, text[:star])
		if found < 0 {
			return false
		}
		s = s[found:]
	}
}

// prefix returns the text before the first star.
func (p pattern) prefix() string { return p.text[:strings.IndexByte(p.text, '*')] }

// suffix returns the text after the last star.
func (p pattern) suffix() string { return p.text[strings.LastIndexByte(p.text, '*')+1:] }

// overlaps reports whether some name matches both patterns, if stars match
// anything.
func (p pattern) overlaps(q pattern) bool {
	if p.literal() {
		return q.match(p.text, 0)
	}
	if q.literal() {
		return p.match(q.text, 0)
	}
	// The name that has the longer prefix, all text between the stars of both, and
	// the longer suffix matches both.
	a, b := p.prefix(), q.prefix()
	c, d := p.suffix(), q.suffix()
	return (strings.HasPrefix(a, b) || strings.HasPrefix(b, a)) && (strings.HasSuffix(c, d) || strings.HasSuffix(d, c))
}

// Bounds on patterns with stars, which bound the work of matching a name.
const (
	maxStars = 8
	// maxCandidates is how many patterns of one section may begin alike, which means
	// that their texts before the first star are beginnings of one name.
	maxCandidates = 256
)

// globs finds the patterns with stars that a name may match: those whose text before
// the first star is a beginning of the name. There are at most maxCandidates of them.
type globs []globNode

// globNode has the patterns with one text before the first star.
type globNode struct {
	prefix   string
	parent   int    // node with the longest other prefix that is a beginning of this one; -1: none
	patterns []glob // most specific first
}

// glob is a pattern, with its index among all patterns of its section.
type glob struct {
	pattern
	index int
}

// newGlobs indexes patterns, which are sorted from most to least specific and of which
// some may be literal. If there are too many for one name, it also returns one that is
// too much, or else -1.
func newGlobs(patterns []pattern) (g globs, excess int) {
	at := map[string]int{}
	for i, p := range patterns {
		if p.literal() {
			continue
		}
		n, ok := at[p.prefix()]
		if !ok {
			n = len(g)
			at[p.prefix()] = n
			g = append(g, globNode{prefix: p.prefix()})
		}
		g[n].patterns = append(g[n].patterns, glob{p, i})
	}
	slices.SortFunc(g, func(a, b globNode) int { return strings.Compare(a.prefix, b.prefix) })
	excess = -1
	candidates := make([]int, len(g))
	for n := range g {
		g[n].parent = g[:n].find(g[n].prefix)
		candidates[n] = len(g[n].patterns)
		if parent := g[n].parent; parent >= 0 {
			candidates[n] += candidates[parent]
		}
		if candidates[n] > maxCandidates && excess < 0 {
			excess = g[n].patterns[len(g[n].patterns)-1].index
		}
	}
	return g, excess
}

// find returns the node with the longest prefix that name begins with; -1: none. The
// others are the parents of that node.
//
// The nodes are sorted, so all nodes between that one and the place of the name begin
// with its prefix: it is a parent of the last node before the name, or that node.
func (g globs) find(name string) int {
	n, found := slices.BinarySearchFunc(g, name, func(n globNode, name string) int { return strings.Compare(n.prefix, name) })
	if !found {
		n--
	}
	for n >= 0 && !strings.HasPrefix(name, g[n].prefix) {
		n = g[n].parent
	}
	return n
}

// best returns the index of the most specific pattern that matches name, -1 if there is
// none, and how many patterns it tried.
func (g globs) best(name string, separator byte) (index, tried int) {
	index = -1
	for n := g.find(name); n >= 0; n = g[n].parent {
		for i := range g[n].patterns {
			p := &g[n].patterns[i]
			if index >= 0 && p.index > index {
				break
			}
			tried++
			if p.match(name, separator) {
				index = p.index
				break
			}
		}
	}
	return index, tried
}

// ranked maps a name to the value of the most specific pattern that matches it.
type ranked[T any] struct {
	exact   map[string]int   // index in entries of each name without stars
	entries []rankedEntry[T] // most specific first
	globs   globs            // of entries
}

type rankedEntry[T any] struct {
	pattern pattern
	value   T
	at      yamldoc.Node
}

// rank builds the index. Patterns that are too many for one name are a problem.
func rank[T any](p *parser, section string, entries []rankedEntry[T]) ranked[T] {
	r := ranked[T]{exact: map[string]int{}, entries: slices.Clone(entries)}
	slices.SortFunc(r.entries, func(a, b rankedEntry[T]) int { return a.pattern.compare(b.pattern) })
	patterns := make([]pattern, len(r.entries))
	for i, e := range r.entries {
		patterns[i] = e.pattern
		if e.pattern.literal() {
			r.exact[e.pattern.text] = i
		}
	}
	var excess int
	if r.globs, excess = newGlobs(patterns); excess >= 0 {
		p.tooManyAlike(r.entries[excess].at, section, patterns[excess])
	}
	return r
}

// tooManyAlike reports a pattern that is one of too many for one name.
func (p *parser) tooManyAlike(at yamldoc.Node, section string, too pattern) {
	p.r.Problem(at, tooManyAlikeFormat, section, maxCandidates, too.prefix())
}

const tooManyAlikeFormat = "%s: more than %d patterns could match a name that begins with %q: begin them with more of the name, or write names without stars"

// find returns the entry for a name, nil if no pattern matches it.
func (r *ranked[T]) find(name string) *rankedEntry[T] {
	i, ok := r.exact[name]
	if !ok {
		if i, _ = r.globs.best(name, 0); i < 0 {
			return nil
		}
	}
	return &r.entries[i]
}
