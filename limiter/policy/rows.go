// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/limiter"
)

// rows are the sections of a policy that may have very many entries. They share what did
// not change with the rows that they were made from.
type rows struct {
	tiers    names   // the names that tier ids stand for
	byID     []*tier // by tier id; nil: not defined any more, and not used
	sources  names   // the names that places stand for
	assign   table[string, assigned]
	patterns patternRules // those in assign that have stars
	apiKeys  table[sha256Sum, apiKey]

	overrides     table[string, *keyOverrides]
	overrideCount int
}

// assigned is the tier of a key or a pattern, and where it is given.
type assigned struct {
	tier uint32
	at   place
}

// names numbers names. A changed copy keeps the numbers.
type names struct {
	list []string
	ids  map[string]uint32
}

// with returns the names and one more, and its number. The first call for an edit copies
// the names, which the others change.
func (n *names) with(name string, copied *bool) uint32 {
	if id, ok := n.ids[name]; ok {
		return id
	}
	if !*copied {
		*copied = true
		n.list, n.ids = slices.Clone(n.list), maps.Clone(n.ids)
		if n.ids == nil {
			n.ids = map[string]uint32{}
		}
	}
	id := uint32(len(n.list))
	n.list, n.ids[name] = append(n.list, name), id
	return id
}

// place is a [Place] in little memory.
type place struct{ source, line, column uint32 }

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.source, o.source), cmp.Compare(p.line, o.line), cmp.Compare(p.column, o.column))
}

func (r *rows) place(at place) Place {
	return Place{Source: r.sources.list[at.source], Line: int(at.line), Column: int(at.column)}
}

// keyIndex returns the index of the leaf of a key.
func keyIndex(key string) uint32 { return uint32(xxhash.Sum64String(key) >> (64 - leafBits)) }

// sumIndex returns the index of the leaf of a hash.
func sumIndex(sum sha256Sum) uint32 {
	return uint32(binary.BigEndian.Uint16(sum[:])) >> (16 - leafBits)
}

func compareSums(a, b sha256Sum) int { return bytes.Compare(a[:], b[:]) }

// appendText appends texts with their lengths, so that no two lists look the same.
func appendText(b []byte, texts ...string) []byte {
	for _, s := range texts {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

// patternRule gives a tier to the scopes that match a pattern with stars.
type patternRule struct {
	pattern  pattern
	segments int
	assigned
}

// patternRules finds the most specific rule for a scope.
type patternRules struct {
	rules []patternRule                // most specific first
	globs [limiter.MaxLevels + 1]globs // by number of segments
}

func segmentsOf(key string) int { return 1 + strings.Count(key, keypath.Separator) }

// newPatternRules indexes the rules with stars of an assign section. If there are too many
// for one name, it also returns one that is too much, or else -1.
func newPatternRules(rules []patternRule) (r patternRules, excess int) {
	slices.SortFunc(rules, func(x, y patternRule) int { return x.pattern.compare(y.pattern) })
	r.rules, excess = rules, -1
	patterns := make([]pattern, len(rules))
	for segments := range r.globs {
		for i := range rules {
			patterns[i] = pattern{}
			if rules[i].segments == segments {
				patterns[i] = rules[i].pattern
			}
		}
		var n int
		if r.globs[segments], n = newGlobs(patterns); n >= 0 && excess < 0 {
			excess = n
		}
	}
	return r, excess
}

// find returns the most specific rule for a scope; nil if there is none.
func (r *patternRules) find(scope string, segments int) *patternRule {
	if i, _ := r.globs[segments].best(scope, '/'); i >= 0 {
		return &r.rules[i]
	}
	return nil
}

// assigned returns the tier that assign gives a scope; nil if none.
func (r *rows) assigned(scope string, segments int) *tier {
	if r.assign.root != nil {
		// A key may have the text of a pattern, which is then the most specific that matches.
		if a, ok := r.assign.get(keyIndex(scope), scope); ok {
			return r.byID[a.tier]
		}
	}
	if rule := r.patterns.find(scope, segments); rule != nil {
		return r.byID[rule.tier]
	}
	return nil
}
