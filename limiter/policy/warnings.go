// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// Warnings returns what is valid in the files, but probably not intended, in order of
// position.
func (p *Policy) Warnings() Problems { return slices.Clone(p.warnings) }

// unpriced is a name or pattern of a model for which tiers limit spend, and which has no
// price.
type unpriced struct {
	model string
	at    yamldoc.Node // the limit of the first tier
	tier  string       // the first
	more  int          // other tiers
}

// warn returns the warnings of a policy without problems.
func (p *parser) warn(policy *Policy) Problems {
	var found []*unpriced
	byModel := map[string]*unpriced{}
	for _, t := range p.tiers {
		for _, u := range t.unpriced(policy) {
			if known := byModel[u.model]; known != nil {
				known.more++
				continue
			}
			byModel[u.model] = u
			found = append(found, u)
		}
	}
	for _, u := range found {
		tier := "tier " + u.tier
		if u.more > 0 {
			tier += fmt.Sprintf(" and %d more", u.more)
		}
		switch {
		case len(p.prices) == 0:
			p.r.Problem(u.at, "%s: spend is limited, but there are no prices: calls are denied with %s", tier, limiter.NoPrice)
		case u.model == "*":
			p.r.Problem(u.at, `%s: spend is limited, but prices have no "*": calls without a model, and for models that are not listed, are denied with %s`, tier, limiter.NoPrice)
		default:
			p.r.Problem(u.at, "%s: spend of %q is limited, but no price covers it: such calls are denied with %s", tier, u.model, limiter.NoPrice)
		}
	}
	var warnings Problems
	errors.As(p.r.Err(), &warnings)
	return warnings
}

// unpriced returns the models for which the tier limits spend, and which no price covers.
// A limit for all models is one for "*". A pattern is covered by a price whose pattern
// matches its text.
func (t *tierDef) unpriced(policy *Policy) (list []*unpriced) {
	for i := range t.limits {
		d := &t.limits[i]
		if d.Dimension != limiter.Spend {
			continue
		}
		models := d.models
		if models == nil {
			models = []pattern{newPattern("*")}
		}
		for _, m := range models {
			known := slices.ContainsFunc(list, func(u *unpriced) bool { return u.model == m.text })
			if !known && policy.prices.find(m.text) == nil {
				list = append(list, &unpriced{model: m.text, at: d.at["limit"], tier: t.name})
			}
		}
	}
	return list
}
