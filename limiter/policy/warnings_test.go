// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

func TestWarnings(t *testing.T) {
	const (
		one   = "default_tier: a\ntiers:\n  a: { spend: $1/day }\n"
		two   = one + "  b: { limits: [{ dimension: spend, limit: $5, window: month, mode: shadow }] }\n  c: { spend: $9/day, tokens: 5/min }\n"
		named = `tiers: { a: { limits: [{ dimension: spend, limit: $5, window: month, models: [gpt, "llama-*", "m*"] }] } }` + "\n"
	)
	keys := func(entries string) string {
		for i, name := range []string{"H1", "H2", "H3"} {
			entries = strings.ReplaceAll(entries, name, HashAPIKey(fmt.Sprint("key ", i)))
		}
		return "tiers: { a: { tokens: 5/min } }\napi_keys:\n" + entries
	}
	for _, tt := range []struct {
		src  string
		want []string
	}{
		{keys("  - { hash: H1, key: acme/x }\nassign: [{ key: 'acm*', tier: a }]\n"), nil},
		{keys("  - { hash: H1, key: acme/x, tier: a }\n"), nil},
		{keys("  - { hash: H1, key: acme/x }\ndefault_tier: a\n"), nil},
		{keys("  - { hash: H1, key: acme/x }\nassign: [{ key: 'acm*/*/*', tier: a }]\n"), []string{
			"p.yaml:3:13: calls with this API key are rejected with no_tier, unless they name a tier: no level of its key has one, and there is no default_tier",
		}},
		{keys("  - { hash: H1, key: acme/x, tier: a }\n  - { hash: H2, key: acme/y }\n  - { hash: H3, key: acme }\n"), []string{
			"p.yaml:4:13: calls with this API key and 1 more are rejected with no_tier, unless they name a tier: no level of its key has one, and there is no default_tier",
		}},
		{"tiers: { a: { tokens: 5/min } }", nil},
		{one + `prices: { "*": { input: 1, output: 2 } }`, nil},
		{one, []string{"p.yaml:3:15: tier a: spend is limited, but there are no prices: calls are denied with no_price"}},
		{two, []string{
			"p.yaml:3:15: tier a and 1 more: spend is limited, but there are no prices: calls are denied with no_price",
			"p.yaml:4:44: tier b: spend is limited in shadow mode, but there are no prices: calls are allowed and not counted",
		}},
		{one + `prices: { gpt: { input: 1, output: 2 } }`, []string{
			`p.yaml:3:15: tier a: spend is limited, but prices have no "*": calls without a model, and for models that are not listed, are denied with no_price`,
		}},
		{named + `prices: { gpt: { input: 1, output: 2 }, "m*": { input: 1, output: 2 }, llama-3: { input: 1, output: 2 } }`, []string{
			`p.yaml:1:51: tier a: spend of "llama-*" is limited, but no price covers it: such calls are denied with no_price`,
		}},
		{named + `prices: { "*": { input: 1, output: 2 } }`, nil},
	} {
		p, err := Parse("p.yaml", []byte(tt.src), limiter.NewCatalog())
		if err != nil {
			t.Errorf("Parse(%s) = %v", tt.src, err)
			continue
		}
		var got []string
		for _, w := range p.Warnings() {
			got = append(got, w.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("warnings of\n%s\n= %q, want %q", tt.src, got, tt.want)
		}
	}
}

// TestWarningsOfShadowLimits checks what is said about limits in shadow mode, which deny
// nothing, alone and beside others of the same tier and of another, against what a call is
// answered.
func TestWarningsOfShadowLimits(t *testing.T) {
	const (
		enforced = "{ name: e, dimension: spend, limit: $5, window: day }"
		shadow   = "{ name: s, dimension: spend, limit: $5, window: day, mode: shadow }"
		denied   = "are denied with no_price"
		allowed  = "are allowed and not counted"
	)
	forModel := func(limit string) string { return strings.Replace(limit, " }", ", models: [m] }", 1) }
	for _, tt := range []struct {
		name   string
		tiers  [2]string // limits of a and b
		prices string
		want   []string // tier and end of each warning
		denies [2]bool  // tiers that deny a call for m
	}{
		{"enforced", [2]string{enforced, ""}, "", []string{"a", denied}, [2]bool{true, false}},
		{"shadow", [2]string{shadow, ""}, "", []string{"a", allowed}, [2]bool{}},
		{"shadow twice", [2]string{shadow + "," + strings.Replace(shadow, "name: s", "name: s2", 1), ""}, "", []string{"a", allowed}, [2]bool{}},
		{"shadow before enforced", [2]string{shadow + "," + enforced, ""}, "", []string{"a", denied}, [2]bool{true, false}},
		{"enforced before shadow", [2]string{enforced + "," + shadow, ""}, "", []string{"a", denied}, [2]bool{true, false}},
		{"shadow tier first", [2]string{shadow, enforced}, "", []string{"a", allowed, "b", denied}, [2]bool{false, true}},
		{"shadow tier last", [2]string{enforced, shadow}, "", []string{"a", denied, "b", allowed}, [2]bool{true, false}},
		{"two shadow tiers", [2]string{shadow, shadow}, "", []string{"a and 1 more", allowed}, [2]bool{}},
		{"shadow for all, enforced for one", [2]string{shadow + "," + forModel(enforced), ""}, "", []string{"a", allowed, "a", denied}, [2]bool{true, false}},
		{"enforced for all, shadow for one", [2]string{enforced + "," + forModel(shadow), ""}, "", []string{"a", denied, "a", allowed}, [2]bool{true, false}},
		{"a price for another model", [2]string{shadow, forModel(enforced)}, "other: { input: 1, output: 1 }", []string{"a", allowed, "b", denied}, [2]bool{false, true}},
		{"a price for the model", [2]string{shadow, forModel(enforced)}, "m: { input: 1, output: 1 }", []string{"a", allowed}, [2]bool{}},
		{"a price for all", [2]string{shadow, enforced}, `"*": { input: 1, output: 1 }`, nil, [2]bool{}},
	} {
		catalog := limiter.NewCatalog()
		src := fmt.Sprintf("tiers: { a: { limits: [%s] }, b: { limits: [%s] } }\nprices: { %s }\n", tt.tiers[0], tt.tiers[1], tt.prices)
		if tt.tiers[1] == "" {
			src = fmt.Sprintf("tiers: { a: { limits: [%s] }, b: { tokens: 5000/min } }\nprices: { %s }\n", tt.tiers[0], tt.prices)
		}
		p, err := Parse("p.yaml", []byte(src), catalog)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, w := range p.Warnings() {
			tier, _, _ := strings.Cut(strings.TrimPrefix(w.Message, "tier "), ":")
			end := denied
			if strings.HasSuffix(w.Message, allowed) {
				end = allowed
			}
			got = append(got, tier, end)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: warnings = %q, want %q", tt.name, got, tt.want)
		}
		engine := limiter.New(limiter.Options{Catalog: catalog})
		for i, tier := range []string{"a", "b"} {
			var plan limiter.Plan
			if err := p.Resolve(limiter.Time{}, "k", tier, "m", &plan); err != nil {
				t.Fatal(err)
			}
			var d limiter.Decision
			if err := engine.Check(limiter.Time{Wall: 1e18}, &limiter.Request{Key: "k", Tier: tier, Model: "m", Plan: &plan, Requests: 1, InputTokens: 10}, &d); err != nil {
				t.Fatal(err)
			}
			if got := d.Outcome == limiter.Denied; got != tt.denies[i] {
				t.Errorf("%s: a call under tier %s is %v, want denied: %v", tt.name, tier, d.Outcome, tt.denies[i])
			}
		}
	}
}

// What is not a list is one problem, not also a list without elements.
func TestModelsThatAreNoListAreOneProblem(t *testing.T) {
	_, err := Parse("p.yaml", []byte("tiers:\n  free:\n    limits:\n      - { dimension: requests, limit: 10, window: minute, models: llama }\n"), limiter.NewCatalog())
	if err == nil || strings.Count(err.Error(), "p.yaml:") != 1 || !strings.Contains(err.Error(), `models must be a list, got "llama"`) {
		t.Errorf("Parse() = %v, want one problem: models must be a list", err)
	}
}
