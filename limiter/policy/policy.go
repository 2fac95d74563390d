// SPDX-License-Identifier: Apache-2.0

// Package policy says which limits apply to a call. It compiles YAML into an
// immutable [Policy], whose [Policy.Resolve] fills a [limiter.Plan] without locks
// or allocations. It reads no clock, and no files but the time zones of the
// standard library.
//
// A file defines tiers, assigns them to keys, and says what models cost:
//
//	tiers:
//	  free: { requests: 10/min, tokens: 10_000/min, concurrent: 2, spend: $1/day }
//	  acme-org:
//	    zone: America/New_York
//	    limits:
//	      - { name: org-tpm, dimension: tokens, limit: 5_000_000, window: 1m, on_exceed: degrade }
//	default_tier: free
//	assign:
//	  - { key: acme, tier: acme-org }
//	prices:
//	  "*": { input: 1.00, output: 3.00 }
//
// testdata/example.yaml has every key, with comments. These rules are not obvious
// from it:
//
//   - The most specific rule wins, for keys and for models: an exact name, then
//     the pattern with the most characters that are not *, then the one with fewer
//     stars, then the alphabetically first. The order in a file never matters. In
//     a key, a star stays within one segment; in the name of a model it matches
//     anything.
//   - A window given as a word is a calendar window if the algorithm is
//     fixed_window, and a length otherwise. A window given as a duration (24h) is
//     always a length. Fixed windows of a length align to the Unix epoch.
//   - starts says on which day of the month a window of a month begins (in a shorter
//     month, the last day counts), or at which time of the day one of a day.
//   - The default algorithm is concurrency for concurrent, fixed_window for spend
//     and for the words day, week, month and year, and token_bucket otherwise.
//   - A call without a model has the price and weights of "*". Of the limits that
//     name models, those for "*" apply to it, and those for other names do not: a
//     front door whose server has a default model must name it.
//   - cached_input has the price and weight of input unless they are given, and
//     cache_write and cache_write_1h have the price of input. The weight of input
//     that is written to a cache is that of input. input and output have no default
//     price, because tokens without a price would be free by mistake.
//   - A factor under service_tiers multiplies the prices of tokens, but not the fees
//     of requests, images and searches.
//   - A file has only the SHA-256 of an API key: see [HashAPIKey]. No message
//     repeats text under api_keys, because people may paste an API key there.
//   - headroom is a part of the capacity of a limit that calls of a class leave free: of
//     units, rounded up. batch leaves at least as much free as standard, and interactive
//     calls may take everything.
//   - Only at a limit with a queue do calls wait, at most for its max_wait.
//   - weight and priority of a tier count for the calls whose full key has the tier.
//   - If several entries of models match, the most specific one that has weights
//     gives the weights, and likewise for default_output_tokens and bound_output.
//
// All problems of all files are reported together, as [Problems].
package policy

import (
	_ "embed" // default.yaml
	"slices"
	"time"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// A Problem is one problem of a file, with its position.
type Problem = yamldoc.Problem

// Problems is the error of a policy that cannot be used: all its problems, in order
// of position.
type Problems = yamldoc.Problems

// A Policy is immutable and safe for concurrent use.
type Policy struct {
	catalog   *limiter.Catalog
	tiers     map[string]*tier
	tierNames []string // sorted

	defaultTier   *tier // nil: none
	prices        ranked[price]
	weights       ranked[limiter.Weights]
	outputs       ranked[int64]
	bounds        ranked[bool]
	defaultOutput int64

	// models has the settings of every name that the files mention. Other names
	// come from callers and are looked up each time.
	models map[string]modelSettings

	warnings Problems

	rows // the entries that can be set one by one

	limitsByName map[string][]namedLimit // for overrides

	facts   []fact    // canonical content without the rows, sorted
	base    sha256Sum // of facts
	digest  string
	version uint64
}

// tier is a compiled tier.
type tier struct {
	name     string
	zone     *time.Location // nil: UTC
	estimate limiter.Estimate
	bound    bool  // bound_output
	weight   int64 // among those who wait
	classes  classes
	base     *limiter.LimitSet // of limits that name no models; nil if none
	groups   []group           // of limits that name models
	models   groupIndex
	// sets has the limits of each combination of groups that a model can match, by
	// bit mask. byName has those of models that the files mention.
	sets   map[uint64]*limiter.LimitSet
	byName map[string]*limiter.LimitSet

	defs []limitDef // sorted, for Explain and the digest
}

// group has the limits of a tier that name the same models.
type group struct {
	models []pattern
	limits []limiter.Limit
}

// groupIndex finds the groups that a model matches. Groups are bits of a mask.
type groupIndex struct {
	names map[string]uint64 // of names without stars
	globs globs
	masks []uint64 // by index of the pattern
}

// mask returns the groups that a model matches.
func (x *groupIndex) mask(model string) uint64 {
	mask := x.names[model]
	for n := x.globs.find(model); n >= 0; n = x.globs[n].parent {
		for i := range x.globs[n].patterns {
			if p := &x.globs[n].patterns[i]; mask&x.masks[p.index] != x.masks[p.index] && p.match(model, 0) {
				mask |= x.masks[p.index]
			}
		}
	}
	return mask
}

// perModel returns the limits that name a model; nil if there are none.
func (t *tier) perModel(model string) *limiter.LimitSet {
	if len(t.groups) == 0 {
		return nil
	}
	if model == "" {
		model = "*" // only the pattern "*" matches it
	}
	if set, ok := t.byName[model]; ok {
		return set
	}
	return t.sets[t.models.mask(model)]
}

// price is what one model costs: prices in millionths of a dollar per million tokens, and
// fees in millionths of a dollar.
type price struct {
	input, cachedInput, output int64
	cacheWrite, cacheWrite1h   int64
	request, image, search     int64
	serviceTiers               limiter.ServiceTiers
}

// modelSettings are the rates and the default output of calls for a model, and whether
// calls without a bound get the default as their bound.
type modelSettings struct {
	rates         limiter.Rates
	defaultOutput int64
	boundOutput   bool
}

// rates returns the rates with this price and the default weights.
func (v *price) rates() limiter.Rates {
	return limiter.Rates{
		Priced: true, InputPrice: v.input, CachedInputPrice: v.cachedInput, OutputPrice: v.output,
		CacheWritePrice: v.cacheWrite, CacheWrite1hPrice: v.cacheWrite1h,
		RequestFee: v.request, ImageFee: v.image, SearchFee: v.search,
		ServiceTiers: v.serviceTiers, Weights: limiter.DefaultWeights,
	}
}

func (p *Policy) modelSettingsFor(name string) modelSettings {
	m := modelSettings{rates: limiter.Rates{Weights: limiter.DefaultWeights}, defaultOutput: p.defaultOutput}
	if e := p.prices.find(name); e != nil {
		m.rates = e.value.rates()
		if e.pattern.text != "*" {
			m.rates.Name = e.pattern.text
		}
	}
	if e := p.weights.find(name); e != nil {
		m.rates.Weights = e.value
	}
	if e := p.outputs.find(name); e != nil {
		m.defaultOutput = e.value
	}
	if e := p.bounds.find(name); e != nil {
		m.boundOutput = e.value
	}
	return m
}

//go:embed default.yaml
var defaultYAML string

// DefaultYAML returns the text of the built-in policy, which a node has if it is
// given none.
func DefaultYAML() string { return defaultYAML }

// Default compiles [DefaultYAML] against a catalog.
func Default(catalog *limiter.Catalog) *Policy {
	p, err := Parse("default.yaml", []byte(defaultYAML), catalog)
	if err != nil {
		panic(err) // cannot happen: a test compiles it
	}
	return p
}

// Catalog returns the catalog that the policy was compiled against.
func (p *Policy) Catalog() *limiter.Catalog { return p.catalog }

// Tiers returns the names of the tiers, sorted.
func (p *Policy) Tiers() []string { return slices.Clone(p.tierNames) }

// DefaultTier returns the name of the default tier, "" if there is none.
func (p *Policy) DefaultTier() string {
	if p.defaultTier == nil {
		return ""
	}
	return p.defaultTier.name
}
