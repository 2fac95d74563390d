// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// maxWeight is the largest weight, in millionths.
const maxWeight = 1000 * micros

// tokenKinds are the keys of weights.
var tokenKinds = []string{"input", "cached_input", "output"}

// priceKinds are the keys of prices that are amounts of money: per million tokens, and
// from request on for each.
var priceKinds = []string{"input", "cached_input", "cache_write", "cache_write_1h", "output", "request", "image", "search"}

// serviceTiersKey is the key of the factors of service tiers.
const serviceTiersKey = "service_tiers"

var priceKeys = append(slices.Clone(priceKinds), serviceTiersKey)

func (p *parser) parsePrices(n yamldoc.Node) {
	for _, f := range p.r.Fields(n, "prices", nil) {
		model, ok := p.modelKey(f.Key, "prices")
		if !ok {
			continue
		}
		what := fmt.Sprintf("the price of %q", model)
		v, given := price{}, map[string]int64{}
		ok = f.Value.IsMapping()
		for _, g := range p.r.Fields(f.Value, what, priceKeys) {
			good := false
			if g.Name == serviceTiersKey {
				v.serviceTiers, good = p.serviceTiers(g.Value, what)
			} else {
				given[g.Name], good = p.number(g.Value, what+": "+g.Name, priceParser(g.Name))
			}
			ok = ok && good
		}
		if !ok {
			continue
		}
		for _, kind := range []string{"input", "output"} {
			if _, has := given[kind]; !has {
				p.r.Problem(f.Value, "%s needs %s, in dollars per million tokens; write 0 if it is free", what, kind)
			}
		}
		v.input, v.output = given["input"], given["output"]
		v.request, v.image, v.search = given["request"], given["image"], given["search"]
		for _, part := range []struct {
			key string
			to  *int64
		}{{"cached_input", &v.cachedInput}, {"cache_write", &v.cacheWrite}, {"cache_write_1h", &v.cacheWrite1h}} {
			*part.to = v.input
			if own, has := given[part.key]; has {
				*part.to = own
			}
		}
		p.prices = append(p.prices, rankedEntry[price]{newPattern(model), v, f.Key})
	}
}

// serviceTiers reads the factors of service tiers.
func (p *parser) serviceTiers(n yamldoc.Node, what string) (tiers limiter.ServiceTiers, ok bool) {
	what += ": " + serviceTiersKey
	factors, ok := map[string]int64{}, n.IsMapping()
	for _, f := range p.r.Fields(n, what, nil) {
		name, named := p.name(f.Key, what+": a service tier")
		factor, valid := p.number(f.Value, what+": "+name, parseWeight)
		factors[name] = factor
		ok = ok && named && valid
	}
	if !ok {
		return tiers, false
	}
	tiers, err := limiter.NewServiceTiers(factors)
	if err != nil {
		p.r.Problem(n, "%s: %v", what, err)
	}
	return tiers, err == nil
}

// priceParser returns what reads the dollars of a kind of prices; the $ may be left out.
func priceParser(kind string) func(string) (int64, error) {
	if slices.Index(priceKinds, kind) < slices.Index(priceKinds, "request") {
		return parseTokenPrice
	}
	return parsePrice
}

func parsePrice(s string) (int64, error) { return parseDecimal(strings.TrimPrefix(s, "$"), 6) }

// parseTokenPrice is parsePrice for dollars per million tokens.
func parseTokenPrice(s string) (int64, error) {
	n, err := parsePrice(s)
	if err != nil {
		if n, e := parseDecimal(strings.TrimPrefix(s, "$"), 12); e == nil && n < perToken*micros {
			err = fmt.Errorf("is in dollars per million tokens: write %s for %s a token", formatDecimal(n, 6), s)
		}
	}
	return n, err
}

// A price per million tokens below perToken, $0.001, is probably one of a token, and one of
// output below perThousand, $0.02, one of a token or of 1,000.
const (
	perToken    = 1_000
	perThousand = 20_000
)

// warnOfPerToken reports prices that are probably not per million tokens.
func (p *parser) warnOfPerToken() {
	for i := range p.prices {
		e := &p.prices[i]
		most := int64(perToken)
		if e.value.output > 0 && e.value.output < perThousand {
			most = perThousand
		}
		for _, part := range []struct {
			key string
			n   int64
		}{{"input", e.value.input}, {"output", e.value.output}} {
			if part.n > 0 && part.n < most {
				p.r.Problem(e.at, "the price of %q: %s is %s per million tokens: write %s if it is meant for one token, and %s if for 1,000",
					e.pattern.text, part.key, FormatAmount(limiter.Spend, part.n), formatDecimal(part.n, 0), formatDecimal(part.n, 3))
			}
		}
	}
}

func parseWeight(s string) (int64, error) {
	n, err := parseDecimal(s, 6)
	if err == nil && n > maxWeight {
		err = fmt.Errorf("is too large: the maximum is %d", maxWeight/micros)
	}
	return n, err
}

func (p *parser) parseModels(n yamldoc.Node) {
	for _, f := range p.r.Fields(n, "models", nil) {
		model, ok := p.modelKey(f.Key, "models")
		if !ok {
			continue
		}
		for _, g := range p.r.Fields(f.Value, fmt.Sprintf("model %q", model), []string{"weights", "default_output_tokens", "bound_output"}) {
			switch g.Name {
			case "weights":
				given, ok := p.byTokenKind(g.Value, fmt.Sprintf("the weights of %q", model), parseWeight)
				if ok {
					p.weights = append(p.weights, rankedEntry[limiter.Weights]{newPattern(model), weightsOf(given), f.Key})
				}
			case "default_output_tokens":
				if v, ok := p.count(g.Value, g.Name); ok {
					p.outputs = append(p.outputs, rankedEntry[int64]{newPattern(model), v, f.Key})
				}
			case "bound_output":
				if v, ok := p.boolean(g.Value, g.Name); ok {
					p.bounds = append(p.bounds, rankedEntry[bool]{newPattern(model), v, f.Key})
				}
			}
		}
	}
}

func weightsOf(given map[string]int64) limiter.Weights {
	w := limiter.DefaultWeights
	if v, has := given["input"]; has {
		w.Input, w.CachedInput = v, v
	}
	if v, has := given["cached_input"]; has {
		w.CachedInput = v
	}
	if v, has := given["output"]; has {
		w.Output = v
	}
	return w
}

// modelKey reads the name or pattern of a model that is a key of a section.
func (p *parser) modelKey(n yamldoc.Node, section string) (string, bool) {
	model, ok := p.patternText(n, "model")
	have := len(p.prices) + len(p.weights) + len(p.outputs) + len(p.bounds)
	return model, ok && p.define(n, fmt.Sprintf("%q under %s", model, section)) && p.room(n, "prices and models", have, p.most.models)
}

// byTokenKind reads numbers for any of tokenKinds; ok is false if there was a
// problem.
func (p *parser) byTokenKind(n yamldoc.Node, what string, parse func(string) (int64, error)) (given map[string]int64, ok bool) {
	given, ok = map[string]int64{}, n.IsMapping()
	for _, f := range p.r.Fields(n, what, tokenKinds) {
		v, good := p.number(f.Value, what+": "+f.Name, parse)
		given[f.Name] = v
		ok = ok && good
	}
	return given, ok
}
