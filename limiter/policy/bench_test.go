// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

// manyTiers returns a policy with n tiers, of which no two have the same limits.
func manyTiers(n int) string {
	var b strings.Builder
	b.WriteString("tiers:\n")
	for i := range n {
		fmt.Fprintf(&b, "  t%d: { requests: %d/min, tokens: 1000/min }\n", i, i+1)
	}
	return b.String()
}

func BenchmarkParseTiers(b *testing.B) {
	for _, n := range []int{2_000, 20_000} {
		src := []byte(manyTiers(n))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("p.yaml", src, limiter.NewCatalog()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkResolvePatterns resolves names that no pattern matches, which is the most
// work that a name can cause.
func BenchmarkResolvePatterns(b *testing.B) {
	const header = "tiers: { free: { requests: 10/min } }\ndefault_tier: free\n"
	for _, bench := range []struct {
		name, section, pattern string
		n                      int
		key, model             string
	}{
		{"prices by prefix", "prices:\n", "  'vendor%d/*': { input: 1, output: 1 }\n", 8000, "acme/alice", "vendor7000x"},
		{"prices with stars", "prices:\n", "  'm%d*a*a*a*a*a*a*b': { input: 1, output: 1 }\n", 8000, "acme/alice", "m7" + strings.Repeat("a", 200)},
		{"prices that begin alike", "prices:\n", "  '*%d*a*a*a*a*a*b': { input: 1, output: 1 }\n", 256, "acme/alice", strings.Repeat("a0123456789", 20)},
		{"rules by root", "assign:\n", "  - { key: 'org%d/*', tier: free }\n", 8000, "org7000/alice", ""},
	} {
		b.Run(bench.name, func(b *testing.B) {
			src := header + bench.section
			for i := range bench.n {
				src += fmt.Sprintf(bench.pattern, i)
			}
			p := mustParse(b, src)
			var plan limiter.Plan
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Resolve(limiter.Time{}, bench.key, "", bench.model, &plan); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
