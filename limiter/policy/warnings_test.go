// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

func TestWarnings(t *testing.T) {
	const (
		one   = "default_tier: a\ntiers:\n  a: { spend: $1/day }\n"
		two   = one + "  b: { limits: [{ dimension: spend, limit: $5, window: month, mode: shadow }] }\n  c: { spend: $9/day, tokens: 5/min }\n"
		named = `tiers: { a: { limits: [{ dimension: spend, limit: $5, window: month, models: [gpt, "llama-*", "m*"] }] } }` + "\n"
	)
	for _, tt := range []struct {
		src  string
		want []string
	}{
		{"tiers: { a: { tokens: 5/min } }", nil},
		{one + `prices: { "*": { input: 1, output: 2 } }`, nil},
		{one, []string{"p.yaml:3:15: tier a: spend is limited, but there are no prices: calls are denied with no_price"}},
		{two, []string{"p.yaml:3:15: tier a and 2 more: spend is limited, but there are no prices: calls are denied with no_price"}},
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
