// SPDX-License-Identifier: Apache-2.0

package pricelist

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// Scales of the amounts in a table: from dollars per token to millionths of a dollar per
// million tokens, from dollars to millionths, and from a factor to millionths.
const (
	perToken  = 1e12
	perPiece  = 1e6
	perFactor = 1e6
)

// kinds are the prices that a policy has, in its order, with their names in a table. The
// first name that an entry has counts.
var kinds = []struct {
	key   string
	names []string
	scale int64
}{
	{"input", []string{"input_cost_per_token"}, perToken},
	{"cached_input", []string{"cache_read_input_token_cost"}, perToken},
	{"cache_write", []string{"cache_creation_input_token_cost"}, perToken},
	{"cache_write_1h", []string{"cache_creation_input_token_cost_above_1hr"}, perToken},
	{"output", []string{"output_cost_per_token"}, perToken},
	{"request", []string{"input_cost_per_request", "input_cost_per_query"}, perPiece},
	{"image", []string{"output_cost_per_image"}, perPiece},
	{"search", []string{"search_context_cost_per_query"}, perPiece},
}

// suffixes are the ends of names of prices in a service tier.
var suffixes = []struct{ suffix, tier string }{{"_batches", "batch"}, {"_flex", "flex"}, {"_priority", "priority"}}

// Modes of models without output tokens, and of models whose output is images.
var (
	silentModes = []string{"embedding", "rerank", "moderation", "search", "ocr"}
	imageModes  = []string{"image_generation", "image_edit"}
)

// entry is one model of a table.
type entry struct {
	list   *List
	name   string
	fields map[string]any
	used   map[string]bool // names of fields that were taken over
}

// add adds the price of a model, if it has one.
func (l *List) add(name string, fields map[string]any) {
	if problem := nameProblem(name); problem != "" {
		l.note(name, "left out: %s", problem)
		return
	}
	e := &entry{l, name, fields, map[string]bool{}}
	found, names := map[string]*big.Rat{}, map[string]string{}
	for _, k := range kinds {
		for _, field := range k.names {
			if v := e.price(field); v != nil {
				found[k.key], names[k.key] = v, field
				break
			}
		}
	}
	if !e.complete(found) {
		return
	}
	var parts []string
	for _, k := range kinds {
		v, has := found[k.key]
		if !has || v.Sign() == 0 && k.scale == perPiece {
			continue
		}
		n, ok := e.units(names[k.key], v, k.scale)
		if !ok {
			return
		}
		parts = append(parts, k.key+": "+strings.TrimPrefix(policy.FormatAmount(limiter.Spend, n), "$"))
	}
	if factors := e.factors(); factors != "" {
		parts = append(parts, "service_tiers: { "+factors+" }")
	}
	e.noteRest(found)
	l.models = append(l.models, model{name, strings.Join(parts, ", ")})
}

// nameProblem returns why a policy cannot have prices of a model of that name.
func nameProblem(name string) string {
	switch {
	case name == "" || len(name) > 256:
		return "the name must have 1 to 256 bytes"
	case strings.Contains(name, "*"):
		return "a star in a name would make it a pattern"
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }):
		return "the name is not printable"
	}
	return ""
}

// price returns the amount of a field, or nil if there is none.
func (e *entry) price(field string) *big.Rat {
	v := e.fields[field]
	if sizes, ok := v.(map[string]any); ok && field == "search_context_cost_per_query" {
		return e.dearest(field, sizes)
	}
	if v == nil {
		return nil
	}
	e.used[field] = true
	n, ok := v.(json.Number)
	if !ok {
		e.list.note(e.name, "%s is not a number and is left out", field)
		return nil
	}
	r, err := exact(n)
	if err != nil {
		e.list.note(e.name, "%s %v and is left out", field, err)
		return nil
	}
	return r
}

// dearest returns the largest price of a search, which depends on the size of its context.
func (e *entry) dearest(field string, sizes map[string]any) (most *big.Rat) {
	e.used[field] = true
	differ := false
	for _, size := range slices.Sorted(maps.Keys(sizes)) {
		n, ok := sizes[size].(json.Number)
		r, err := exact(n)
		if !ok || err != nil {
			e.list.note(e.name, "%s.%s is not a price and is left out", field, size)
			continue
		}
		differ = differ || most != nil && most.Cmp(r) != 0
		if most == nil || r.Cmp(most) > 0 {
			most = r
		}
	}
	if differ {
		e.list.note(e.name, "%s depends on the size of the context: the highest price is taken", field)
	}
	return most
}

// complete fills in what a policy needs. It returns false if the model cannot be priced:
// tokens without a price would be free by mistake.
func (e *entry) complete(found map[string]*big.Rat) bool {
	mode, _ := e.fields["mode"].(string)
	silent := slices.Contains(silentModes, mode) || slices.Contains(imageModes, mode) && found["image"] != nil && e.fields["output_cost_per_image_token"] == nil
	hasFee := found["request"] != nil || found["image"] != nil || found["search"] != nil
	if silent && found["output"] == nil {
		found["output"] = new(big.Rat)
		if found["input"] == nil && hasFee {
			found["input"] = new(big.Rat)
		}
	}
	for _, key := range []string{"input", "output"} {
		if found[key] == nil {
			e.list.note(e.name, "left out: no price of %s tokens", key)
			return false
		}
	}
	if found["cache_write_1h"] == nil && found["cache_write"] != nil {
		found["cache_write_1h"] = found["cache_write"] // not less than for five minutes
	}
	return true
}

// units returns an amount in the units of a policy.
func (e *entry) units(field string, v *big.Rat, scale int64) (int64, bool) {
	n, rounded := scaled(v, scale)
	if !n.IsInt64() || n.Int64() > limiter.MaxAmount {
		e.list.note(e.name, "left out: %s is too large", field)
		return 0, false
	}
	if rounded {
		e.list.note(e.name, "%s is rounded up to a millionth of a dollar%s", field, map[bool]string{true: " per million tokens"}[scale == perToken])
	}
	return n.Int64(), true
}

// factors returns the service tiers of the model. A policy has one factor for all prices
// of tokens, so the highest counts.
func (e *entry) factors() string {
	var list []string
	for _, s := range suffixes {
		var most *big.Rat
		differ := false
		for _, k := range kinds {
			if k.scale != perToken {
				continue
			}
			own := e.price(k.names[0] + s.suffix)
			normal := e.price(k.names[0])
			if own == nil && (k.key == "input" || k.key == "output") && e.hasTier(s.suffix) {
				own = normal // its tokens cost the same in the service tier
			}
			if own == nil {
				continue
			}
			if normal == nil || normal.Sign() == 0 {
				if own.Sign() != 0 {
					e.list.note(e.name, "%s%s is left out: the normal price is 0 or unknown", k.names[0], s.suffix)
				}
				continue
			}
			factor := new(big.Rat).Quo(own, normal)
			differ = differ || most != nil && most.Cmp(factor) != 0
			if most == nil || factor.Cmp(most) > 0 {
				most = factor
			}
		}
		if most == nil {
			continue
		}
		n, rounded := scaled(most, perFactor)
		if !n.IsInt64() || n.Int64() > limiter.MaxServiceFactor {
			e.list.note(e.name, "prices in service tier %s are left out: more than 1000 times the normal price", s.tier)
			continue
		}
		if differ {
			e.list.note(e.name, "prices in service tier %s have several factors: the highest is taken", s.tier)
		}
		if rounded {
			e.list.note(e.name, "the factor of service tier %s is rounded up", s.tier)
		}
		list = append(list, fmt.Sprintf("%s: %s", s.tier, strings.TrimPrefix(policy.FormatAmount(limiter.Spend, n.Int64()), "$")))
	}
	return strings.Join(list, ", ")
}

// hasTier reports whether input or output has a price in a service tier.
func (e *entry) hasTier(suffix string) bool {
	return e.fields["input_cost_per_token"+suffix] != nil || e.fields["output_cost_per_token"+suffix] != nil
}

// costWords are parts of the names of fields that have, or change, prices.
var costWords = []string{"cost", "pric", "multiplier", "uplift", "surcharge", "discount", "fee_"}

// isCost reports whether a field has, or changes, prices. The factors of a provider's own
// modes, such as fast, are in provider_specific_entry.
func isCost(field string) bool {
	return field == "provider_specific_entry" || slices.ContainsFunc(costWords, func(word string) bool { return strings.Contains(field, word) })
}

// noteRest notes the other fields that are costs, and those of them that have no price. A
// price of 0, a factor of 1, and a price of reasoning that equals that of output make no
// difference.
func (e *entry) noteRest(found map[string]*big.Rat) {
	for field, v := range e.fields {
		if e.used[field] || v == nil || !isCost(field) {
			continue
		}
		name := fieldName(field)
		switch v := v.(type) {
		case json.Number:
			r, err := exact(v)
			switch {
			case err != nil:
				e.list.note(e.name, "%s %v and is left out", name, err)
			case r.Sign() == 0, field == "output_cost_per_reasoning_token" && r.Cmp(found["output"]) == 0:
			case strings.Contains(field, "multiplier") && r.Cmp(big.NewRat(1, 1)) == 0:
			default:
				e.list.note(e.name, "%s is not taken over: a policy has no such price", name)
			}
		case string, bool:
			e.list.note(e.name, "%s is not a number and is left out", name)
		default:
			e.list.note(e.name, "%s is not taken over: a policy has no such price", name)
		}
	}
}

// fieldName returns the name of a field for a message.
func fieldName(field string) string {
	if strings.ContainsFunc(field, func(r rune) bool { return r < ' ' || r > '~' }) || len(field) > 100 {
		return "a field"
	}
	return field
}
