// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// Warnings returns what is valid in the files, but probably not intended, in order of
// position.
func (p *Policy) Warnings() Problems { return slices.Clone(p.warnings) }

// unpriced is a name or pattern of a model for which tiers limit spend, and which has no
// price.
type unpriced struct {
	model  string
	shadow bool         // only in shadow mode
	at     yamldoc.Node // the limit of the first tier
	tier   string       // the first
	more   int          // other tiers
}

// consequence says what becomes of calls for the model.
func (u *unpriced) consequence() string {
	if u.shadow {
		return "are allowed and not counted"
	}
	return "are denied with " + limiter.NoPrice.String()
}

// warn returns the warnings of a policy without problems.
func (p *parser) warn(policy *Policy) Problems {
	var found []*unpriced
	type kind struct {
		model  string
		shadow bool
	}
	byKind := map[kind]*unpriced{}
	for _, t := range p.tiers {
		for _, u := range t.unpriced(policy) {
			k := kind{u.model, u.shadow}
			if known := byKind[k]; known != nil {
				known.more++
				continue
			}
			byKind[k] = u
			found = append(found, u)
		}
	}
	for _, u := range found {
		tier := "tier " + u.tier
		if u.more > 0 {
			tier += fmt.Sprintf(" and %d more", u.more)
		}
		limited := "is limited"
		if u.shadow {
			limited = "is limited in shadow mode"
		}
		switch {
		case len(p.prices) == 0 && u.model == "*":
			p.r.Problem(u.at, "%s: spend %s, but there are no prices: calls %s", tier, limited, u.consequence())
		case len(p.prices) == 0:
			p.r.Problem(u.at, "%s: spend of %q %s, but there are no prices: such calls %s", tier, u.model, limited, u.consequence())
		case u.model == "*":
			p.r.Problem(u.at, `%s: spend %s, but prices have no "*": calls without a model, and for models that are not listed, %s`, tier, limited, u.consequence())
		default:
			p.r.Problem(u.at, "%s: spend of %q %s, but no price covers it: such calls %s", tier, u.model, limited, u.consequence())
		}
	}
	p.warnOfPerToken()
	p.warnOfNoTier(policy)
	var warnings Problems
	errors.As(p.r.Err(), &warnings)
	return warnings
}

// unpriced returns the models for which the tier limits spend, and which no price covers.
// A limit for all models is one for "*". A pattern is covered by a price whose pattern
// matches its text. Of several limits for a model, one that is enforced is the one that
// counts.
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
			u := &unpriced{model: m.text, shadow: d.Shadow, at: d.at["limit"], tier: t.name}
			known := slices.IndexFunc(list, func(u *unpriced) bool { return u.model == m.text })
			switch {
			case policy.prices.find(m.text) != nil:
			case known < 0:
				list = append(list, u)
			case list[known].shadow:
				list[known] = u
			}
		}
	}
	return list
}

// warnOfNoTier warns of API keys whose calls have no tier, at the first of them.
func (p *parser) warnOfNoTier(policy *Policy) {
	if policy.defaultTier != nil {
		return
	}
	var first apiKey
	count := 0
	policy.apiKeys.all(func(_ sha256Sum, k apiKey) {
		if k.tier != noTier || policy.hasTier(k.key) {
			return
		}
		if count++; count == 1 || k.at.compare(first.at) < 0 {
			first = k
		}
	})
	if count == 0 {
		return
	}
	more := ""
	if count > 1 {
		more = fmt.Sprintf(" and %s more", amount.Group(int64(count-1)))
	}
	at := policy.place(first.at) // and not the key: no message repeats text of this section
	p.r.ProblemAt(at.Source, at.Line, at.Column, "",
		"calls with this API key%s are rejected with no_tier, unless they name a tier: no level of its key has one, and there is no default_tier", more)
}

// hasTier reports whether assign gives a level of a key a tier.
func (r *rows) hasTier(key string) bool {
	segments := 0
	for end := range len(key) + 1 {
		if end == len(key) || key[end] == '/' {
			if segments++; r.assigned(key[:end], segments) != nil {
				return true
			}
		}
	}
	return false
}
