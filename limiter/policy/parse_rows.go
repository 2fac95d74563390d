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

var (
	assignKeys = []string{"key", "tier"}
	apiKeyKeys = []string{"hash", "key", "tier"}

	overrideNeeds = []string{"key", "limit", "value", "until"}
	overrideKeys  = append(slices.Clone(overrideNeeds), "reason")
)

// parseSection reads a section with rows into e.
func (p *parser) parseSection(e *rowsEdit, s section) {
	if s.name == apiKeysSection {
		s.value = s.value.Redacted()
	}
	for _, item := range p.r.Items(s.value, s.name) {
		switch s.name {
		case assignSection:
			p.assignItem(e, item)
		case apiKeysSection:
			p.apiKeyItem(e, item)
		case overridesSection:
			p.overrideItem(e, item)
		}
	}
}

// texts reads the fields of a row. It returns the value of each that is given, and its
// place. A field that is no single value, and one of the needed that is missing, are
// problems; ok is then false.
func (p *parser) texts(item yamldoc.Node, what string, known, needed []string) (values map[string]string, at map[string]Place, ok bool) {
	values, at, ok = map[string]string{}, map[string]Place{}, item.IsMapping()
	for _, f := range p.r.Fields(item, what, known) {
		text, good := p.r.Text(f.Value, f.Name)
		values[f.Name], at[f.Name] = text, placeOf(f.Value)
		ok = ok && good
	}
	if !item.IsMapping() {
		return values, at, false
	}
	for _, name := range needed {
		if _, has := at[name]; has {
			continue
		}
		hint := ""
		switch {
		case name == "hash":
			hint = ": make one with: bucketring policy hash-key"
		case name == "key" && what == "an API key":
			hint = ", such as acme/alice"
		case name == "until":
			hint = ", such as 2026-12-24; for good, assign a tier with that limit"
		}
		article := "a"
		if name == "until" {
			article = "an"
		}
		p.r.Problem(item, "%s needs %s %s%s", what, article, name, hint)
		ok = false
	}
	return values, at, ok
}

func placeOf(n yamldoc.Node) Place {
	file, line, column := n.Position()
	return Place{file, line, column}
}

func (p *parser) assignItem(e *rowsEdit, item yamldoc.Node) {
	values, at, ok := p.texts(item, "an assign rule", assignKeys, assignKeys)
	if ok {
		e.assignRow(values["key"], values["tier"], at["key"], at["tier"])
	}
}

func (p *parser) apiKeyItem(e *rowsEdit, item yamldoc.Node) {
	values, at, ok := p.texts(item, "an API key", apiKeyKeys, []string{"hash", "key"})
	if ok {
		e.apiKeyRow(APIKey{Hash: values["hash"], Key: values["key"], Tier: values["tier"]}, at["hash"], at["key"], at["tier"])
	}
}

// overrideItem reads an override, as a mapping or as a sentence.
func (p *parser) overrideItem(e *rowsEdit, item yamldoc.Node) {
	if !item.IsMapping() && !item.IsList() && !item.IsNull() {
		sentence, _ := p.r.Text(item, "an override")
		v, err := ParseOverride(sentence)
		if err != nil {
			p.r.Problem(item, "an override %v", err)
			return
		}
		v.At = placeOf(item)
		e.overrideRow(v, overrideAt{v.At, v.At, v.At, v.At})
		return
	}
	values, at, ok := p.texts(item, "an override", overrideKeys, overrideNeeds)
	if ok {
		v := Override{values["key"], values["limit"], values["value"], values["until"], values["reason"], at["key"]}
		e.overrideRow(v, overrideAt{at["key"], at["limit"], at["value"], at["until"]})
	}
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
	segments := strings.Split(text, "/")
	if slices.Contains(segments, "") {
		return fmt.Sprintf("%q has an empty segment: no key matches it", text)
	}
	if len(segments) > limiter.MaxLevels {
		return fmt.Sprintf("%q has %d segments: no key matches it, because keys have at most %d", text, len(segments), limiter.MaxLevels)
	}
	return ""
}
