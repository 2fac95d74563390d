// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/limiter"
)

// Resolve fills plan with the limits of every level of key that has a tier, from
// the root down, and with the rates of model. The full key has the named tier if
// tierName is set, else the tier that assign gives it, else the default tier. The
// levels above it have the tier that assign gives them, if any.
//
// The key must be valid. An error is a [*limiter.FieldError]: for field tier if no
// tier has that name, or for field key, problem no_tier, if no level has a tier.
// The plan is then undefined. Resolve takes no lock and, without an error, does not
// allocate.
func (p *Policy) Resolve(key, tierName, model string, plan *limiter.Plan) error {
	var named *tier
	if tierName != "" {
		if named = p.tiers[tierName]; named == nil {
			return p.unknownTier(tierName)
		}
	}
	plan.Count = 0
	root := keypath.Root(key)
	for segments, end := 1, len(root); ; segments++ {
		t := named
		if end < len(key) || named == nil {
			t = p.assigned(key[:end], root, segments)
		}
		if t == nil && end == len(key) {
			t = p.defaultTier
		}
		if t != nil {
			plan.Levels[plan.Count] = limiter.Level{
				End: end, Tier: t.name, Limits: t.base, Model: t.perModel(model), Estimate: t.estimate,
			}
			plan.Count++
		}
		if end == len(key) {
			break
		}
		if segments == limiter.MaxLevels {
			return &limiter.FieldError{Field: "key", Value: key, Problem: fmt.Sprintf("must have at most %d segments", limiter.MaxLevels)}
		}
		if next := strings.IndexByte(key[end+1:], '/'); next >= 0 {
			end += 1 + next
		} else {
			end = len(key)
		}
	}
	if plan.Count == 0 {
		return &limiter.FieldError{Field: "key", Value: key, Problem: "no_tier: no level of the key has a tier, and the policy has no default_tier"}
	}
	settings, known := p.models[model]
	if !known {
		settings = p.modelSettingsFor(model)
	}
	plan.Tier = plan.Levels[plan.Count-1].Tier
	plan.Rates = settings.rates
	plan.DefaultOutput = settings.defaultOutput
	plan.Version = p.version
	return nil
}

// maxListed bounds the tier names that an error lists.
const maxListed = 10

func (p *Policy) unknownTier(name string) error {
	problem := "must be a tier of the policy"
	switch near := nearest.Word(name, p.tierNames); {
	case near != "":
		problem += fmt.Sprintf(" (did you mean %q?)", near)
	case len(p.tierNames) <= maxListed:
		problem += " (" + strings.Join(p.tierNames, ", ") + ")"
	}
	return &limiter.FieldError{Field: "tier", Value: name, Problem: problem}
}

// rule gives a tier to the scopes that match a pattern.
type rule struct {
	pattern  pattern
	segments int
	tier     *tier
	rank     int    // index among all rules, most specific first
	at       string // file:line:column
}

func (r *rule) match(scope string, segments int) bool {
	return r.segments == segments && r.pattern.match(scope, '/')
}

// assignments finds the rule for a scope. Patterns are indexed by root if that has
// no star, so that a thousand "org/*" rules cost one look-up.
type assignments struct {
	exact   map[string]*rule
	byRoot  map[string][]*rule
	anyRoot []*rule
	rules   []*rule // all, most specific first
}

func newAssignments(rules []*rule) assignments {
	a := assignments{exact: map[string]*rule{}, byRoot: map[string][]*rule{}, rules: rules}
	slices.SortFunc(a.rules, func(x, y *rule) int { return x.pattern.compare(y.pattern) })
	for i, r := range a.rules {
		r.rank = i
		root := keypath.Root(r.pattern.text)
		switch {
		case r.pattern.literal():
			a.exact[r.pattern.text] = r
		case strings.Contains(root, "*"):
			a.anyRoot = append(a.anyRoot, r)
		default:
			a.byRoot[root] = append(a.byRoot[root], r)
		}
	}
	return a
}

// find returns the most specific rule for a scope, nil if there is none.
func (a *assignments) find(scope, root string, segments int) *rule {
	if r, ok := a.exact[scope]; ok {
		return r
	}
	best := firstMatch(a.byRoot[root], scope, segments)
	if other := firstMatch(a.anyRoot, scope, segments); best == nil || other != nil && cmp.Less(other.rank, best.rank) {
		best = other
	}
	return best
}

func firstMatch(rules []*rule, scope string, segments int) *rule {
	for _, r := range rules {
		if r.match(scope, segments) {
			return r
		}
	}
	return nil
}

// assigned returns the tier that assign gives a scope; nil if none.
func (p *Policy) assigned(scope, root string, segments int) *tier {
	if r := p.assign.find(scope, root, segments); r != nil {
		return r.tier
	}
	return nil
}
