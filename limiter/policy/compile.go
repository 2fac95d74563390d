// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/bucketring/bucketring/limiter"
)

// compile builds the policy against a catalog and reports the problems that this
// finds. The result is usable only if there are none.
func (p *parser) compile(catalog *limiter.Catalog) *Policy {
	p.combinations = 0
	policy := &Policy{
		catalog:       catalog,
		tiers:         map[string]*tier{},
		prices:        rank(p, "prices", p.prices),
		weights:       rank(p, "models", p.weights),
		outputs:       rank(p, "models", p.outputs),
		bounds:        rank(p, "models", p.bounds),
		defaultOutput: defaultOutputTokens,
		models:        map[string]modelSettings{},
	}
	if p.defaultOutput != nil {
		policy.defaultOutput = *p.defaultOutput
	}
	for _, d := range p.tiers {
		policy.tiers[d.name] = p.compileTier(d, catalog)
		policy.tierNames = append(policy.tierNames, d.name)
	}
	slices.Sort(policy.tierNames)
	policy.indexLimits()
	policy.defaultTier = policy.tiers[p.defaultTier.name]
	for _, name := range policy.mentionedModels() {
		policy.models[name] = policy.modelSettingsFor(name)
	}
	return policy
}

// mentionedModels returns the names in prices and models that are no patterns, and
// the empty name.
func (p *Policy) mentionedModels() []string {
	names := []string{""}
	for name := range p.prices.exact {
		names = append(names, name)
	}
	for name := range p.weights.exact {
		names = append(names, name)
	}
	for name := range p.outputs.exact {
		names = append(names, name)
	}
	for name := range p.bounds.exact {
		names = append(names, name)
	}
	return names
}

// Bounds on the limits that name models. A tier has a limit set for each combination of
// model lists that one model can match.
const (
	maxGroups          = 64      // model lists of a tier
	maxCombinations    = 1024    // of a tier
	maxAllCombinations = 100_000 // of all tiers
)

func (p *parser) compileTier(d *tierDef, catalog *limiter.Catalog) *tier {
	t := &tier{name: d.name, zone: d.zone, estimate: d.estimate, bound: d.bound, weight: d.weight, classes: d.classes, defs: slices.Clone(d.limits)}
	slices.SortFunc(t.defs, func(a, b limitDef) int { return compareLimits(&a.Limit, &b.Limit) })
	var base []limiter.Limit
	for i := range t.defs {
		l := &t.defs[i]
		if l.models == nil {
			base = append(base, l.Limit)
			continue
		}
		if len(t.groups) > maxGroups {
			break // combine reports it
		}
		g := slices.IndexFunc(t.groups, func(g group) bool { return slices.Equal(g.models, l.models) })
		if g < 0 {
			g = len(t.groups)
			t.groups = append(t.groups, group{models: l.models})
		}
		t.groups[g].limits = append(t.groups[g].limits, l.Limit)
	}
	t.base = p.limitSet(d, base, catalog)
	combinations, ok := combine(t.groups)
	if !ok {
		p.r.Problem(d.at, "tier %s: the models of its limits overlap in more than %d ways", d.name, maxCombinations)
		return t
	}
	if p.combinations += len(combinations); p.combinations > maxAllCombinations {
		p.once("combinations", d.at, "the models of all limits overlap in more than %d ways", maxAllCombinations)
		return t
	}
	t.models = p.indexGroups(d, t.groups)
	t.sets = map[uint64]*limiter.LimitSet{}
	for _, mask := range combinations {
		var limits []limiter.Limit
		for m := mask; m != 0; m &= m - 1 {
			limits = append(limits, t.groups[bits.TrailingZeros64(m)].limits...)
		}
		slices.SortFunc(limits, func(a, b limiter.Limit) int { return compareLimits(&a, &b) })
		t.sets[mask] = p.limitSet(d, limits, catalog)
	}
	t.byName = map[string]*limiter.LimitSet{}
	for name := range t.models.names {
		t.byName[name] = t.sets[t.models.mask(name)]
	}
	return t
}

// indexGroups indexes the models of the limits of a tier. Patterns that are too many for
// one name are a problem.
func (p *parser) indexGroups(d *tierDef, groups []group) groupIndex {
	x := groupIndex{names: map[string]uint64{}}
	var patterns []pattern
	for i, g := range groups {
		for _, m := range g.models {
			if m.literal() {
				x.names[m.text] |= 1 << i
			} else {
				patterns = append(patterns, m)
			}
		}
	}
	slices.SortFunc(patterns, pattern.compare)
	patterns = slices.Compact(patterns)
	x.masks = make([]uint64, len(patterns))
	for i, g := range groups {
		for _, m := range g.models {
			if at, found := slices.BinarySearchFunc(patterns, m, pattern.compare); found {
				x.masks[at] |= 1 << i
			}
		}
	}
	var excess int
	if x.globs, excess = newGlobs(patterns); excess >= 0 {
		i := slices.IndexFunc(d.limits, func(l limitDef) bool { return slices.Contains(l.models, patterns[excess]) })
		p.tooManyAlike(d.limits[i].at["models"], "tier "+d.name+": models", patterns[excess])
	}
	return x
}

// combine returns, as bit masks, the sets of groups that overlap pairwise. Every
// set of groups that one model can match is among them. It returns false if there
// are too many.
func combine(groups []group) (masks []uint64, ok bool) {
	if len(groups) > maxGroups {
		return nil, false
	}
	masks = []uint64{0}
	for i := range groups {
		var overlapping uint64
		for j := range i {
			if overlap(groups[i].models, groups[j].models) {
				overlapping |= 1 << j
			}
		}
		for _, m := range masks {
			if m&^overlapping == 0 {
				masks = append(masks, m|1<<i)
			}
		}
		if len(masks) > maxCombinations {
			return nil, false
		}
	}
	return masks, true
}

func overlap(a, b []pattern) bool {
	return slices.ContainsFunc(a, func(p pattern) bool {
		return slices.ContainsFunc(b, p.overlaps)
	})
}

// compareLimits orders limits as answers list them.
func compareLimits(a, b *limiter.Limit) int {
	return cmp.Or(
		cmp.Compare(dimensionOrder(a.Dimension), dimensionOrder(b.Dimension)),
		cmp.Compare(a.Dimension, b.Dimension),
		cmp.Compare(a.Name, b.Name),
	)
}

func dimensionOrder(d limiter.Dimension) int {
	if i := slices.Index(limiter.BuiltinDimensions, d); i >= 0 {
		return i
	}
	return len(limiter.BuiltinDimensions)
}

// limitSet compiles limits; nil if there are none. A problem that the catalog finds
// is reported at the place of the limit in its file.
func (p *parser) limitSet(t *tierDef, limits []limiter.Limit, catalog *limiter.Catalog) *limiter.LimitSet {
	if len(limits) == 0 {
		return nil
	}
	set, err := catalog.LimitSet(limits)
	if err == nil {
		return set
	}
	problems := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		problems = joined.Unwrap()
	}
	for _, problem := range problems {
		var le *limiter.LimitError
		if !errors.As(problem, &le) {
			p.r.Problem(t.at, "tier %s: %v", t.name, problem)
			continue
		}
		at, message := t.at, fmt.Sprintf("tier %s, limit %s: %s: %s", t.name, le.Name, le.Field, le.Problem)
		if i := slices.IndexFunc(t.limits, func(d limitDef) bool { return d.Name == le.Name }); i >= 0 {
			at = t.limits[i].node
			if field, has := t.limits[i].at[le.Field]; has {
				at = field
			}
		}
		p.r.Problem(at, "%s", message)
	}
	return nil
}
