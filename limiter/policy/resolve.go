// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
)

// Resolve fills plan with the limits of every level of key that has a tier, from
// the root down, as they are at now with the overrides that have not ended, and with the
// rates of model. The full key has the named tier if
// tierName is set, else the tier that assign gives it, else the default tier. The
// levels above it have the tier that assign gives them, if any.
//
// The key must be valid. An error is a [*limiter.FieldError]: for field tier if no
// tier has that name, or for field key, problem no_tier, if no level has a tier.
// The plan is then undefined. Resolve takes no lock and, without an error, does not
// allocate, except when it first needs the limits of a tier with an override.
func (p *Policy) Resolve(now limiter.Time, key, tierName, model string, plan *limiter.Plan) error {
	var named *tier
	if tierName != "" {
		if named = p.tiers[tierName]; named == nil {
			return p.unknownTier(tierName)
		}
	}
	plan.Count, plan.BoundOutput = 0, false
	for segments, end := 1, len(keypath.Root(key)); ; segments++ {
		t := named
		if end < len(key) || named == nil {
			t = p.assigned(key[:end], segments)
		}
		if t == nil && end == len(key) {
			t = p.defaultTier
		}
		if t != nil {
			plan.Levels[plan.Count] = limiter.Level{
				End: end, Tier: t.name, Limits: t.base, Model: t.perModel(model), Estimate: t.estimate,
			}
			if p.overrides.root != nil {
				p.override(now, key[:end], &plan.Levels[plan.Count])
			}
			plan.Count++
			plan.BoundOutput = plan.BoundOutput || t.bound
			plan.Weight, plan.Priority, plan.HighestPriority = t.weight, t.classes.usual, t.classes.highest
		}
		if end == len(key) {
			break
		}
		if segments == limiter.MaxLevels {
			return &limiter.FieldError{Field: "key", Value: text.Quote(key), Problem: fmt.Sprintf("must have at most %d segments", limiter.MaxLevels)}
		}
		if next := strings.IndexByte(key[end+1:], '/'); next >= 0 {
			end += 1 + next
		} else {
			end = len(key)
		}
	}
	if plan.Count == 0 {
		return &limiter.FieldError{Field: "key", Value: text.Quote(key), Problem: "no_tier: no level of the key has a tier, and the policy has no default_tier"}
	}
	settings, known := p.models[model]
	if !known {
		settings = p.modelSettingsFor(model)
	}
	plan.Tier = plan.Levels[plan.Count-1].Tier
	plan.Rates = settings.rates
	plan.DefaultOutput = settings.defaultOutput
	plan.BoundOutput = plan.BoundOutput || settings.boundOutput
	plan.Version = p.version
	return nil
}

// Bounds on the tier names that an error lists, and on those that are compared with
// the wrong one: callers may send wrong names as often as they like.
const (
	maxListed   = 10
	maxCompared = 64
)

func (p *Policy) unknownTier(name string) error {
	problem := "must be a tier of the policy"
	near := ""
	if len(p.tierNames) <= maxCompared {
		near = nearest.Word(name, p.tierNames)
	}
	switch {
	case near != "":
		problem += fmt.Sprintf(" (did you mean %q?)", near)
	case len(p.tierNames) <= maxListed:
		problem += " (" + strings.Join(p.tierNames, ", ") + ")"
	}
	return &limiter.FieldError{Field: "tier", Value: text.Quote(name), Problem: problem}
}
