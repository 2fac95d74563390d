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
const assignSection = "assign"

var (
	assignKeys = []string{"key", "tier"}
	apiKeyKeys = []string{"hash", "key", "tier"}
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
		if what == "an API key" {
			hint = map[string]string{"hash": ": make one with: bucketring policy hash-key", "key": ", such as acme/alice"}[name]
		}
		p.r.Problem(item, "%s needs a %s%s", what, name, hint)
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
