// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// maxWeight is the largest weight, in millionths.
const maxWeight = 1000 * micros

// tokenKinds are the keys of prices and weights.
var tokenKinds = []string{"input", "cached_input", "output"}

func (p *parser) parsePrices(n yamldoc.Node) {
	for _, f := range p.r.Fields(n, "prices", nil) {
		model, ok := p.modelKey(f.Key, "prices")
		if !ok {
			continue
		}
		what := fmt.Sprintf("the price of %q", model)
		given, ok := p.byTokenKind(f.Value, what, parsePrice)
		if !ok {
			continue
		}
		for _, kind := range []string{"input", "output"} {
			if _, has := given[kind]; !has {
				p.r.Problem(f.Value, "%s needs %s, in dollars per million tokens; write 0 if it is free", what, kind)
			}
		}
		v := price{input: given["input"], cachedInput: given["input"], output: given["output"]}
		if cached, has := given["cached_input"]; has {
			v.cachedInput = cached
		}
		p.prices = append(p.prices, rankedEntry[price]{newPattern(model), v, f.Key})
	}
}

// parsePrice reads dollars per million tokens; the $ may be left out.
func parsePrice(s string) (int64, error) { return parseDecimal(strings.TrimPrefix(s, "$"), 6) }

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
