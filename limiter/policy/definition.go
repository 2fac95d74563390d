// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"iter"
	"strconv"

	"github.com/bucketring/bucketring/limiter"
)

// A Definition is the content of a policy in the words of its file, for stores that are
// no files. All values are texts as in a file; "" leaves a key out. A limit stands in its
// long form.
type Definition struct {
	DefaultTier, DefaultOutputTokens string

	Tiers  []TierDefinition
	Prices []PriceDefinition
	Models []ModelDefinition

	// Assign yields the keys of assign with their tiers, and APIKeys and Overrides the
	// entries of their sections, without places. nil: none.
	Assign    iter.Seq2[string, string]
	APIKeys   iter.Seq[APIKey]
	Overrides iter.Seq[Override]
}

// TierDefinition is a tier. EstimateOutput is output_tokens of estimate mode fixed, and the
// priorities are those of priority.
type TierDefinition struct {
	Name, Zone, Estimate, EstimateOutput, BoundOutput, Weight, DefaultPriority, HighestPriority string

	Limits []LimitDefinition
}

// LimitDefinition is a limit of a tier. MaxWait and MaxDepth are those of queue.
type LimitDefinition struct {
	Name, Dimension, Limit, Window, Starts, Burst, Algorithm, OnExceed, Mode, Unreachable, Durability, Show, Slices string

	MaxWait, MaxDepth, HeadroomStandard, HeadroomBatch string

	Models []string
}

// PriceDefinition is the price of a model.
type PriceDefinition struct {
	Model, Input, CachedInput, CacheWrite, CacheWrite1h, Output, Request, Image, Search string

	ServiceTiers []FactorDefinition
}

// FactorDefinition is the factor of a service tier.
type FactorDefinition struct{ Name, Factor string }

// ModelDefinition is an entry of models.
type ModelDefinition struct {
	Model, WeightInput, WeightCachedInput, WeightOutput, DefaultOutputTokens, BoundOutput string
}

// Definition returns the content of p. A policy that is parsed from its YAML has the
// same digest.
func (p *Policy) Definition() *Definition {
	d := &Definition{
		DefaultTier: p.DefaultTier(), DefaultOutputTokens: strconv.FormatInt(p.defaultOutput, 10),
		Assign: p.assignRules, APIKeys: p.apiKeyEntries, Overrides: p.overrideEntries,
	}
	for _, name := range p.tierNames {
		d.Tiers = append(d.Tiers, p.tiers[name].definition())
	}
	for _, e := range p.prices.entries {
		d.Prices = append(d.Prices, e.value.definition(e.pattern.text))
	}
	d.Models = p.modelDefinitions()
	return d
}

func (t *tier) definition() TierDefinition {
	d := TierDefinition{Name: t.name}
	switch t.estimate.Mode {
	case limiter.EstimateInput:
		d.Estimate = "input"
	case limiter.EstimateFixed:
		d.Estimate, d.EstimateOutput = "fixed", strconv.FormatInt(t.estimate.Output, 10)
	}
	if t.bound {
		d.BoundOutput = "true"
	}
	if t.weight != 1 {
		d.Weight = strconv.FormatInt(t.weight, 10)
	}
	if t.classes != usualClasses {
		d.DefaultPriority, d.HighestPriority = t.classes.usual.String(), t.classes.highest.String()
	}
	for i := range t.defs {
		l := &t.defs[i]
		if l.Zone != nil {
			d.Zone = l.Zone.String() // all limits of a tier have the same
		}
		d.Limits = append(d.Limits, l.definition())
	}
	return d
}

func (d *limitDef) definition() LimitDefinition {
	l := LimitDefinition{Name: d.Name, Dimension: string(d.Dimension), Limit: FormatAmount(d.Dimension, d.Amount)}
	switch d.Calendar {
	case limiter.NoCalendar:
		if d.Window != 0 {
			l.Window = FormatDuration(d.Window)
		}
	case limiter.Month:
		l.Window = "month"
		if d.StartDay > 1 {
			l.Starts = strconv.Itoa(d.StartDay)
		}
	case limiter.Day:
		l.Window = "day"
		if d.StartMinute != 0 {
			l.Starts = fmt.Sprintf("%02d:%02d", d.StartMinute/60, d.StartMinute%60)
		}
	default:
		l.Window = formatWindow(&d.Limit)
	}
	if d.Burst != 0 {
		l.Burst = FormatAmount(d.Dimension, d.Burst)
	}
	set := func(to *string, value string, unusual bool) {
		if unusual {
			*to = value
		}
	}
	set(&l.Algorithm, d.Algorithm.String(), d.Algorithm != defaultAlgorithm(d.Dimension, d.Calendar))
	set(&l.OnExceed, "degrade", d.Degrade)
	set(&l.Mode, "shadow", d.Shadow)
	set(&l.Unreachable, d.Unreachable.String(), d.Unreachable != defaultUnreachable(d.Dimension))
	set(&l.Durability, "async", d.Async)
	set(&l.Show, "false", d.Hidden)
	set(&l.Slices, d.Slices.String(), d.Slices != limiter.SlicesNodes)
	if q := d.Queue; q != (limiter.Queue{}) {
		l.MaxWait, l.MaxDepth = FormatDuration(q.MaxWait), strconv.FormatInt(q.MaxDepth, 10)
	}
	if h := d.Headroom; h != (limiter.Headroom{}) {
		l.HeadroomStandard, l.HeadroomBatch = percentText(h.Standard), percentText(h.Batch)
	}
	for _, m := range d.models {
		l.Models = append(l.Models, m.text)
	}
	return l
}

func (v price) definition(model string) PriceDefinition {
	money := func(n, usual int64) string {
		if n == usual {
			return ""
		}
		return formatDecimal(n, 6)
	}
	d := PriceDefinition{
		Model: model, Input: formatDecimal(v.input, 6), Output: formatDecimal(v.output, 6),
		CachedInput: money(v.cachedInput, v.input), CacheWrite: money(v.cacheWrite, v.input), CacheWrite1h: money(v.cacheWrite1h, v.input),
		Request: money(v.request, 0), Image: money(v.image, 0), Search: money(v.search, 0),
	}
	for name, factor := range v.serviceTiers.All() {
		d.ServiceTiers = append(d.ServiceTiers, FactorDefinition{name, formatDecimal(factor, 6)})
	}
	return d
}

// modelDefinitions joins what is kept by setting.
func (p *Policy) modelDefinitions() (list []ModelDefinition) {
	index := map[string]int{}
	entry := func(pattern string) *ModelDefinition {
		i, known := index[pattern]
		if !known {
			i = len(list)
			index[pattern] = i
			list = append(list, ModelDefinition{Model: pattern})
		}
		return &list[i]
	}
	for _, e := range p.weights.entries {
		m := entry(e.pattern.text)
		m.WeightInput, m.WeightCachedInput, m.WeightOutput = formatDecimal(e.value.Input, 6), formatDecimal(e.value.CachedInput, 6), formatDecimal(e.value.Output, 6)
	}
	for _, e := range p.outputs.entries {
		entry(e.pattern.text).DefaultOutputTokens = strconv.FormatInt(e.value, 10)
	}
	for _, e := range p.bounds.entries {
		entry(e.pattern.text).BoundOutput = strconv.FormatBool(e.value)
	}
	return list
}
