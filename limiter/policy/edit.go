// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"

	"github.com/bucketring/bucketring/internal/yamldoc"
)

// Place says where an entry of a policy stands, for errors and for [Policy.Explain].
type Place struct {
	// Source is the name of a file, or of a table. A policy keeps each name once, so many
	// entries should have the same one: it must not have the key of the entry.
	Source string
	// Line and Column count from 1. Line 0: the source has no lines.
	Line, Column int
}

// String returns the place as source:line:column, or as the source alone.
func (p Place) String() string {
	if p.Line == 0 {
		return p.Source
	}
	return fmt.Sprintf("%s:%d:%d", p.Source, p.Line, p.Column)
}

// Assignment gives a tier to a key, or to all keys that match a pattern, like an entry
// of assign in a file.
type Assignment struct {
	Key, Tier string
	At        Place
}

// APIKey says which key the calls with an API key are charged to, like an entry of
// api_keys in a file.
type APIKey struct {
	Hash string // see [HashAPIKey]
	Key  string
	Tier string // "": as assigned
	At   Place
}

// An Edit makes a changed copy of a policy. It is for sources that keep single entries,
// such as a database: entries are set and removed one by one, and what is not changed is
// shared with the old policy and takes no time. Copying changes what the entries of about
// one of 4,096 parts cost, some 100 microseconds with a million entries; changes of patterns
// take time in proportion to all patterns.
//
// An edit of an empty policy may set millions of entries. An Edit must not be used
// concurrently, nor after [Edit.Policy].
type Edit struct {
	policy *Policy // a shallow copy of the old one
	rows   *rowsEdit
	base   *parser // of the files that replace the base; nil: it stays
	draft  *Policy // of these files, for checks
}

// Edit begins a changed copy of p, which stays as it is.
func (p *Policy) Edit() *Edit {
	c := *p
	return &Edit{policy: &c, rows: newRowsEdit(newParser(mostOfAll), p.rows, p.tierNames)}
}

// Clear removes all assignments, API keys and overrides, for a source that reads them all
// again.
func (e *Edit) Clear() { e.rows.clear() }

// SetBase replaces all that the files of a policy define: tiers, the default tier, prices
// and models. The files must not have the sections assign, api_keys and overrides. Files
// may be made of rows of a table, one for each, so that problems name the row. Tiers that
// are left out must not be used any more when [Edit.Policy] is called.
func (e *Edit) SetBase(files []File) {
	p := newParser(e.rows.p.most)
	draft := p.parseBase(files)
	for _, s := range p.sections {
		p.r.Problem(s.key, "section %s cannot be in the files of this source: its entries are set one by one", s.name)
	}
	p.r.Adopt(&e.rows.p.r)
	e.rows.p, e.base, e.draft = p, p, draft
	e.rows.retier(p.tierNames)
}

// Assign sets the tier of a key or pattern. Setting one twice in one edit is a problem.
func (e *Edit) Assign(a Assignment) { e.rows.assignRow(a.Key, a.Tier, a.At, a.At) }

// Unassign removes the assignment of a key or pattern, if there is one.
func (e *Edit) Unassign(key string) { e.rows.unassign(key) }

// SetAPIKey sets the key of an API key. Setting one twice in one edit is a problem. No
// problem repeats a text of the entry, which may be an API key.
func (e *Edit) SetAPIKey(k APIKey) { e.rows.apiKeyRow(k, k.At, k.At, k.At) }

// RemoveAPIKey removes an API key, if it is there. A hash that is none is a problem.
func (e *Edit) RemoveAPIKey(hash string, at Place) { e.rows.removeAPIKey(hash, at) }

// SetOverride sets the override of a limit of a key. Setting one twice in one edit is a
// problem.
func (e *Edit) SetOverride(o Override) { e.rows.overrideRow(o, overrideAt{o.At, o.At, o.At, o.At}) }

// RemoveOverride removes the override of a limit of a key, if there is one.
func (e *Edit) RemoveOverride(key, limit string) { e.rows.removeOverride(key, limit) }

// Policy returns the changed policy. Its digest is that of any policy with the same
// content, however it was made. The error is a [Problems] with all problems of the
// edit; there is then no policy, and the old one is as it was.
func (e *Edit) Policy() (*Policy, error) {
	policy := e.policy
	if e.base != nil {
		policy = e.draft
	}
	e.rows.finish(policy)
	if err := e.rows.p.r.Err(); err != nil {
		return nil, err
	}
	if e.base != nil {
		base := e.base.compile(e.policy.catalog)
		base.computeBase()
		e.rows.finish(base)
		base.warnings = e.base.warn(base)
		policy = base
	}
	return policy.complete(), nil
}

// Delta is a set of changes, in the form of a value. See [Edit].
type Delta struct {
	Assign        []Assignment
	Unassign      []string // keys and patterns
	APIKeys       []APIKey
	RemoveAPIKeys []string // hashes
	Overrides     []Override
	// RemoveOverrides has a key and the name of a limit for each override.
	RemoveOverrides [][2]string
}

// With returns p with changes: first all that is removed, and then all that is set. It is
// an [Edit] in one call.
func (p *Policy) With(d Delta) (*Policy, error) {
	e := p.Edit()
	for _, key := range d.Unassign {
		e.Unassign(key)
	}
	for _, hash := range d.RemoveAPIKeys {
		e.RemoveAPIKey(hash, Place{Source: "API keys to remove"})
	}
	for _, a := range d.Assign {
		e.Assign(a)
	}
	for _, k := range d.APIKeys {
		e.SetAPIKey(k)
	}
	for _, o := range d.RemoveOverrides {
		e.RemoveOverride(o[0], o[1])
	}
	for _, o := range d.Overrides {
		e.SetOverride(o)
	}
	return e.Policy()
}

// rowsEdit changes rows and checks what is set.
type rowsEdit struct {
	p             *parser // collects the problems
	rows          rows
	sourcesCopied bool

	assign   *tableEdit[string, assigned]
	apiKeys  *tableEdit[sha256Sum, apiKey]
	patterns map[string]*assigned // that change; nil: removed
	// Entries that were set, if there were some before. Otherwise the table has them.
	assignSet map[string]bool
	apiKeySet map[sha256Sum]bool
	overrides *overridesEdit
	// defined has the tiers, if they may be others than before.
	defined  map[string]bool
	finished bool
}

func newRowsEdit(p *parser, r rows, tierNames []string) *rowsEdit {
	e := &rowsEdit{p: p, rows: r}
	p.tierNames = tierNames
	e.begin()
	return e
}

// begin begins to edit the tables.
func (e *rowsEdit) begin() {
	r := &e.rows
	e.assign = editTable(r.assign, keyIndex, strings.Compare, func(b []byte, k string, v assigned) []byte {
		return appendText(b, k, r.tiers.list[v.tier])
	})
	e.apiKeys = editTable(r.apiKeys, sumIndex, compareSums, func(b []byte, k sha256Sum, v apiKey) []byte {
		return appendText(append(b, k[:]...), v.key, r.tierName(v.tier))
	})
	e.overrides = editOverrides(r)
	e.patterns, e.assignSet, e.apiKeySet = map[string]*assigned{}, nil, nil
	if r.assign.count > 0 {
		e.assignSet = map[string]bool{}
	}
	if r.apiKeys.count > 0 {
		e.apiKeySet = map[sha256Sum]bool{}
	}
}

func (e *rowsEdit) clear() {
	e.rows = rows{tiers: e.rows.tiers, byID: e.rows.byID, sources: e.rows.sources}
	e.begin()
}

// retier gives numbers to the names of new tiers.
func (e *rowsEdit) retier(tierNames []string) {
	copied := false
	e.defined = make(map[string]bool, len(tierNames))
	for _, name := range tierNames {
		e.rows.tiers.with(name, &copied)
		e.defined[name] = true
	}
}

// at returns a place in the form of rows.
func (e *rowsEdit) at(at Place) place {
	return place{e.rows.sources.with(at.Source, &e.sourcesCopied), uint32(at.Line), uint32(at.Column)}
}

func (e *rowsEdit) problem(at Place, suggestion, format string, args ...any) {
	e.p.r.ProblemAt(at.Source, at.Line, at.Column, suggestion, format, args...)
}

// tier returns the number of a tier, if it is defined.
func (e *rowsEdit) tier(name string) (id uint32, ok bool) {
	id, ok = e.rows.tiers.ids[name]
	if e.defined != nil {
		return id, ok && e.defined[name]
	}
	return id, ok && e.rows.byID[id] != nil
}

// assignRow sets the tier of a key or pattern, whose places are known.
func (e *rowsEdit) assignRow(key, tier string, keyAt, tierAt Place) {
	if problem := keyPatternProblem(key); problem != "" {
		e.problem(keyAt, "", "key %s", problem)
		return
	}
	id, ok := e.tier(tier)
	if !ok && e.p.unread {
		return
	}
	if !ok {
		e.problem(tierAt, e.p.nearestTier(tier), "tier %q of key %q is not defined", tier, key)
		return
	}
	first, exists := e.assign.get(key)
	if exists && (e.assignSet == nil || e.assignSet[key]) {
		e.problem(keyAt, "", "this rule never applies: the rule at %s has the same key %q", e.rows.place(first.at), key)
		return
	}
	if !exists && !e.room(keyAt, "assign rules", e.assign.table.count, e.p.most.rules) {
		return
	}
	e.overrides.touch(key)
	a := assigned{id, e.at(keyAt)}
	e.assign.set(key, a)
	if e.assignSet != nil {
		e.assignSet[key] = true
	}
	if strings.Contains(key, "*") {
		changed := a
		e.patterns[key] = &changed
	}
}

func (e *rowsEdit) unassign(key string) {
	e.overrides.touch(key)
	if e.assign.remove(key) && strings.Contains(key, "*") {
		e.patterns[key] = nil
	}
}

// room is [parser.room] for a place.
func (e *rowsEdit) room(at Place, what string, have, most int) bool {
	if have >= most {
		if _, reported := e.p.first["problem "+what]; !reported {
			e.p.first["problem "+what] = yamldoc.Node{}
			e.problem(at, "", "a policy may have at most %d %s, and this is one more", most, what)
		}
	}
	return have < most
}

// finish puts the changed rows into a policy that has all else. The first call checks them;
// another one is for the same tiers, compiled against another catalog.
func (e *rowsEdit) finish(policy *Policy) {
	r := &e.rows
	if e.defined != nil {
		r.byID = make([]*tier, len(r.tiers.list))
		for id, name := range r.tiers.list {
			r.byID[id] = policy.tiers[name]
		}
		if !e.finished {
			e.checkTiers()
		}
	}
	if !e.finished {
		e.finished = true
		e.finishPatterns()
		r.assign, r.apiKeys = e.assign.done(), e.apiKeys.done()
		e.finishOverrides(policy)
	}
	policy.rows = *r
}

// checkTiers reports the entries whose tiers are gone.
func (e *rowsEdit) checkTiers() {
	gone := func(id uint32) bool { return !e.defined[e.rows.tiers.list[id]] }
	if e.p.unread || len(e.defined) == len(e.rows.tiers.list) {
		return
	}
	e.assign.table.all(func(key string, a assigned) {
		if gone(a.tier) {
			name := e.rows.tiers.list[a.tier]
			e.problem(e.rows.place(a.at), e.p.nearestTier(name), "tier %q of key %q is not defined", name, key)
		}
	})
	e.apiKeys.table.all(func(_ sha256Sum, k apiKey) {
		if k.tier != noTier && gone(k.tier) {
			e.problem(e.rows.place(k.at), "", "tier is not defined")
		}
	})
}

// finishPatterns indexes the patterns if some of them changed.
func (e *rowsEdit) finishPatterns() {
	if len(e.patterns) == 0 {
		return
	}
	var rules []patternRule
	for _, rule := range e.rows.patterns.rules {
		if _, changed := e.patterns[rule.pattern.text]; !changed {
			rules = append(rules, rule)
		}
	}
	for text, a := range e.patterns {
		if a != nil {
			rules = append(rules, patternRule{newPattern(text), segmentsOf(text), *a})
		}
	}
	var excess int
	if e.rows.patterns, excess = newPatternRules(rules); excess >= 0 {
		rule := &e.rows.patterns.rules[excess]
		e.problem(e.rows.place(rule.at), "", tooManyAlikeFormat, "assign", maxCandidates, rule.pattern.prefix())
	}
}
