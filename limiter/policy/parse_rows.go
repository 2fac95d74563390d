// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// The sections with rows, of which a policy may have very many; see also apiKeysSection.
const (
	assignSection    = "assign"
	overridesSection = "overrides"
)

// The keys of their items; those that are needed first.
var (
	assignKeys   = []string{"key", "tier"}
	apiKeyKeys   = []string{"hash", "key", "tier"}
	overrideKeys = []string{"key", "limit", "value", "until", "reason"}
)

var rowSections = []yamldoc.RowSection{{Key: assignSection, Fields: assignKeys}, {Key: apiKeysSection, Fields: apiKeyKeys}, {Key: overridesSection, Fields: overrideKeys}}

// parseSection reads a section with rows into e.
func (p *parser) parseSection(e *rowsEdit, s section) {
	x := item{e: e, what: map[string]string{assignSection: "an assign rule", apiKeysSection: "an API key", overridesSection: "an override"}[s.name]}
	set, known := x.assign, assignKeys
	switch s.name {
	case apiKeysSection:
		s.value = s.value.Redacted()
		set, known = x.apiKey, apiKeyKeys
	case overridesSection:
		set, known = x.override, overrideKeys
	}
	x.known = known
	file, _, _ := s.key.Position()
	if p.r.Rows(s.value, func(row yamldoc.Row) {
		x.begin(Place{file, row.Line, row.Column})
		for _, f := range row.Fields {
			x.add(f.Name, f.Value, Place{file, row.Line, f.Column})
		}
		set()
	}) {
		return
	}
	for _, n := range p.r.Items(s.value, s.name) {
		x.begin(placeOf(n))
		if s.name == overridesSection && !n.IsMapping() && !n.IsList() && !n.IsNull() {
			p.sentence(e, n)
			continue
		}
		x.ok = n.IsMapping()
		guessed := false
		for _, f := range p.r.Fields(n, x.what, known) {
			text, good := p.r.Text(f.Value, f.Name)
			x.ok = x.ok && good
			x.add(f.Name, text, placeOf(f.Value))
			guessed = guessed || f.Value.Guessed()
		}
		if n.IsMapping() && !guessed {
			set()
		}
	}
}

func placeOf(n yamldoc.Node) Place {
	file, line, column := n.Position()
	return Place{file, line, column}
}

// item is an item of a section, whether it is a row or not. It is used for one item after
// the other, because there may be very many.
type item struct {
	e      *rowsEdit
	what   string
	known  []string
	place  Place
	ok     bool // no problem so far
	values [8]string
	at     [8]Place
	given  [8]bool
}

func (x *item) begin(at Place) {
	x.place, x.ok = at, true
	clear(x.values[:])
	clear(x.given[:])
}

func (x *item) add(name, value string, at Place) {
	if i := slices.Index(x.known, name); i >= 0 {
		x.values[i], x.at[i], x.given[i] = value, at, true
	}
}

// needs reports whether the first n known fields are given. One that is missing is a
// problem.
func (x *item) needs(n int) bool {
	for i, name := range x.known[:n] {
		if x.given[i] {
			continue
		}
		x.ok = false
		hint, article := "", "a"
		switch {
		case name == "hash":
			hint = ": make one with: bucketring policy hash-key"
		case name == "key" && len(x.known) == len(apiKeyKeys):
			hint = ", such as acme/alice"
		case name == "until":
			hint, article = ", such as 2026-12-24; for good, assign a tier with that limit", "an"
		}
		x.e.problem(x.place, "", "%s needs %s %s%s", x.what, article, name, hint)
	}
	return x.ok
}

func (x *item) assign() {
	if x.needs(2) {
		x.e.assignRow(x.values[0], x.values[1], x.at[0], x.at[1])
	}
}

func (x *item) apiKey() {
	if x.needs(2) {
		// A part of the text of a file would keep all of it, most of which are hashes.
		x.e.apiKeyRow(APIKey{Hash: x.values[0], Key: strings.Clone(x.values[1]), Tier: x.values[2]}, x.at[0], x.at[1], x.at[2])
	}
}

func (x *item) override() {
	if x.needs(4) {
		v := Override{x.values[0], x.values[1], x.values[2], x.values[3], x.values[4], x.at[0]}
		x.e.overrideRow(v, overrideAt{x.at[0], x.at[1], x.at[2], x.at[3]})
	}
}

// sentence reads an override as a sentence.
func (p *parser) sentence(e *rowsEdit, n yamldoc.Node) {
	text, _ := p.r.Text(n, "an override")
	v, err := ParseOverride(text)
	if err != nil {
		p.r.Problem(n, "an override %v", err)
		return
	}
	v.At = placeOf(n)
	e.overrideRow(v, overrideAt{v.At, v.At, v.At, v.At})
}

// keyPatternProblem says what is wrong with the key of an assignment; nothing if it can
// be used. A pattern that no key matches is a problem.
func keyPatternProblem(text string) string {
	if problem := patternProblem(text); problem != "" {
		if strings.Contains(problem, "double star") {
			problem += "; a star stays within one segment"
		}
		return problem
	}
	if text[0] == '/' || text[len(text)-1] == '/' || strings.Contains(text, "//") {
		return fmt.Sprintf("%q has an empty segment: no key matches it", text)
	}
	if n := segmentsOf(text); n > limiter.MaxLevels {
		return fmt.Sprintf("%q has %d segments: no key matches it, because keys have at most %d", text, n, limiter.MaxLevels)
	}
	return ""
}
