// SPDX-License-Identifier: Apache-2.0

// Package policy says which limits apply to a call. It compiles YAML into an
// immutable [Policy], and [Policy.Resolve] fills a [limiter.Plan] from one
// without a lock or an allocation. It reads no clock and no file, except for
// the time zones that the standard library keeps.
//
// A file names its tiers, who has which, and what models cost:
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
// testdata/example.yaml has every key, with comments. The rules that are not
// obvious from it:
//
//   - Most specific wins, for keys and for models: an exact name, then the
//     pattern with the most characters that are not *, then the one with fewer
//     stars, then the alphabetically first. The order of a file never matters.
//     A star stays within one segment of a key, and matches anything in the
//     name of a model.
//   - A window given as a word is a calendar window where the algorithm is
//     fixed_window, and a length elsewhere; a window given as a duration (24h)
//     is always a length. Lengths of fixed windows align to the Unix epoch.
//   - The default algorithm is concurrency for concurrent, fixed_window for
//     spend and for the words day, week and month, token_bucket for all else.
//   - A call without a model has the price and weights of "*", and of the limits
//     that name models those for "*": leaving the model out evades nothing.
//   - cached_input costs and weighs what input does unless it is given. input
//     and output have no default price: a forgotten one would be free.
//   - An API key stands in a file as its SHA-256 only: see [HashAPIKey]. No
//     message repeats what stands under api_keys, since people may paste a key
//     there.
//   - Of several entries of models that match, the most specific one that has
//     weights gives the weights, and likewise for default_output_tokens.
//
// Every problem of all files is reported at once, as [Problems].
package policy

import (
	_ "embed" // default.yaml
	"slices"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// A Problem is one thing that is wrong with a file, and where.
type Problem = yamldoc.Problem

// Problems is the error of a policy that cannot be used: all that is wrong
// with it, in order of position.
type Problems = yamldoc.Problems

// A Policy is immutable and safe for concurrent use.
type Policy struct {
	catalog *limiter.Catalog
	tiers   map[string]*tier
	names   []string // of the tiers, sorted

	defaultTier   *tier // nil: none
	assign        assignments
	prices        ranked[price]
	weights       ranked[limiter.Weights]
	outputs       ranked[int64]
	apiKeys       apiKeys
	defaultOutput int64

	// models has what a model costs for every name that the files mention;
	// other names come from callers and are looked up each time.
	models map[string]modelFacts

	facts   []fact // canonical content
	digest  string
	version uint64
}

// tier is a compiled tier.
type tier struct {
	name     string
	estimate limiter.Estimate
	base     *limiter.LimitSet // for every model; nil if none
	groups   []group           // limits of some models
	// sets has the limits of every combination of groups that a model can be
	// in, byName those of models that the files mention.
	sets   map[uint64]*limiter.LimitSet
	byName map[string]*limiter.LimitSet

	defs []limitDef // sorted, for explain and digest
}

// group is the limits of a tier that have the same models.
type group struct {
	models []pattern
	limits []limiter.Limit
}

func (g *group) match(model string) bool {
	return slices.ContainsFunc(g.models, func(p pattern) bool { return p.match(model, 0) })
}

// perModel returns the limits that a model has of its own, nil if none.
func (t *tier) perModel(model string) *limiter.LimitSet {
	if len(t.groups) == 0 {
		return nil
	}
	if model == "" {
		model = "*" // which no pattern but that one matches
	}
	if set, ok := t.byName[model]; ok {
		return set
	}
	return t.sets[t.mask(model)]
}

func (t *tier) mask(model string) uint64 {
	var mask uint64
	for i := range t.groups {
		if t.groups[i].match(model) {
			mask |= 1 << i
		}
	}
	return mask
}

// price is in millionths of a dollar per million tokens.
type price struct{ input, cachedInput, output int64 }

// modelFacts is what a call for a model costs.
type modelFacts struct {
	rates         limiter.Rates
	defaultOutput int64
}

func (p *Policy) lookUpModel(name string) modelFacts {
	facts := modelFacts{limiter.Rates{Weights: limiter.DefaultWeights}, p.defaultOutput}
	if e := p.prices.find(name); e != nil {
		facts.rates.Priced = true
		facts.rates.InputPrice = e.value.input
		facts.rates.CachedInputPrice = e.value.cachedInput
		facts.rates.OutputPrice = e.value.output
	}
	if e := p.weights.find(name); e != nil {
		facts.rates.Weights = e.value
	}
	if e := p.outputs.find(name); e != nil {
		facts.defaultOutput = e.value
	}
	return facts
}

//go:embed default.yaml
var defaultYAML string

// DefaultYAML returns the text of the policy that a node starts with when it
// is given none.
func DefaultYAML() string { return defaultYAML }

// Default compiles [DefaultYAML].
func Default(catalog *limiter.Catalog) *Policy {
	p, err := Parse("default.yaml", []byte(defaultYAML), catalog)
	if err != nil {
		panic(err) // a test compiles it
	}
	return p
}

// Catalog returns the catalog that the policy was compiled against.
func (p *Policy) Catalog() *limiter.Catalog { return p.catalog }

// Tiers returns the names of the tiers, sorted.
func (p *Policy) Tiers() []string { return slices.Clone(p.names) }

// DefaultTier returns the name of the default tier, "" if there is none.
func (p *Policy) DefaultTier() string {
	if p.defaultTier == nil {
		return ""
	}
	return p.defaultTier.name
}
