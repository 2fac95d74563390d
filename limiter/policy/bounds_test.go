// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

const oneTier = "tiers: { free: { requests: 10/min } }\ndefault_tier: free\n"

func TestPatternsTriedAreBounded(t *testing.T) {
	sorted := func(n int, format string) []pattern {
		var patterns []pattern
		for i := range n {
			patterns = append(patterns, newPattern(fmt.Sprintf(format, i)))
		}
		slices.SortFunc(patterns, pattern.compare)
		return patterns
	}
	for _, test := range []struct {
		patterns []pattern
		name     string
		want     int
	}{
		{sorted(8000, "vendor%d/*a*a*a*a*a*a*b"), "vendor777/" + strings.Repeat("a", 246), 1},
		{sorted(8000, "%d*"), "7777", 1},  // the most specific is tried first
		{sorted(8000, "%d*x"), "7777", 4}, // 7, 77, 777, 7777
		{sorted(8000, "%d*x"), "no such name", 0},
		{sorted(maxCandidates, "*%d*a*a*a*b"), strings.Repeat("a", 256), maxCandidates},
	} {
		g, excess := newGlobs(test.patterns)
		if excess >= 0 {
			t.Errorf("newGlobs(%q...) rejects %q", test.patterns[0].text, test.patterns[excess].text)
		}
		if _, tried := g.best(test.name, 0); tried != test.want {
			t.Errorf("%d patterns such as %q: %d tried for %q, want %d", len(test.patterns), test.patterns[0].text, tried, test.name, test.want)
		}
	}
}

func TestBestIsTheFirstThatMatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfNDistinct(rapid.StringMatching(`[ab]{0,3}\*[ab]{0,2}|[ab]{0,2}\*[ab]\*`), 0, 30, rapid.ID).Draw(t, "patterns")
		name := rapid.StringMatching(`[ab]{0,6}`).Draw(t, "name")
		var patterns []pattern
		for _, text := range texts {
			patterns = append(patterns, newPattern(text))
		}
		slices.SortFunc(patterns, pattern.compare)
		g, _ := newGlobs(patterns)
		got, tried := g.best(name, 0)
		if want := slices.IndexFunc(patterns, func(p pattern) bool { return naiveMatch(p.text, name, 0) }); got != want {
			t.Fatalf("best(%q) = %d, want %d of %v", name, got, want, patterns)
		}
		candidates := 0
		for _, p := range patterns {
			if strings.HasPrefix(name, p.prefix()) {
				candidates++
			}
		}
		if tried > candidates {
			t.Fatalf("best(%q) tried %d of %v, want at most %d", name, tried, patterns, candidates)
		}
	})
}

func TestTooMuchIsAProblem(t *testing.T) {
	lines := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format+"\n", i)
		}
		return b.String()
	}
	for _, test := range []struct{ name, src, want string }{
		{
			"stars in a price", oneTier + "prices:\n  'a*b*c*d*e*f*g*h*i*': { input: 1, output: 1 }\n",
			"p.yaml:4:3: model must have at most 8 stars, got 9",
		},
		{
			"stars in a rule", oneTier + "assign:\n  - { key: 'a/*a*b*c*d*e*f*g*h*', tier: free }\n",
			"p.yaml:4:12: key must have at most 8 stars, got 9",
		},
		{
			"prices that begin alike", oneTier + "prices:\n" + lines(257, "  '*-%03d': { input: 1, output: 1 }"),
			`p.yaml:260:3: prices: more than 256 patterns could match a name that begins with ""`,
		},
		{
			"beginnings of one name", oneTier + "prices:\n  '*x': { input: 1, output: 1 }\n" + lines(256, "  'gpt*-%03d': { input: 1, output: 1 }"),
			`p.yaml:260:3: prices: more than 256 patterns could match a name that begins with "gpt"`,
		},
		{
			"outputs", oneTier + "models:\n" + lines(257, "  '*-%03d': { default_output_tokens: 7 }"),
			`p.yaml:260:3: models: more than 256 patterns`,
		},
		{
			"rules", oneTier + "assign:\n" + lines(257, "  - { key: 'acme/*-%03d', tier: free }"),
			`p.yaml:260:12: assign: more than 256 patterns could match a name that begins with "acme/"`,
		},
		{
			"limits of a tier", "tiers:\n  free:\n    limits:\n" + lines(9, "      - { name: l%d, dimension: requests, limit: 1, window: min, models: [a] }"),
			"p.yaml:12:9: a policy may have at most 8 limits per tier",
		},
		{
			"models of a tier",
			"tiers:\n  free:\n    limits:\n" + fmt.Sprintf("      - { name: l0, dimension: requests, limit: 1, window: min, models: [%s] }\n", list(0, 64)) +
				fmt.Sprintf("      - { name: l1, dimension: requests, limit: 1, window: min, models: [%s] }\n", list(64, 128)) +
				fmt.Sprintf("      - { name: l2, dimension: requests, limit: 1, window: min, models: [%s] }\n", list(128, 192)) +
				fmt.Sprintf("      - { name: l3, dimension: requests, limit: 1, window: min, models: [%s] }\n", list(192, 256)) +
				"      - { name: l4, dimension: requests, limit: 1, window: min, models: ['*x'] }\n",
			`tier free: models: more than 256 patterns could match a name that begins with ""`,
		},
		{"tiers", manyTiers(9), "p.yaml:10:3: a policy may have at most 8 tiers"},
		{"rules of all files", oneTier + "assign:\n" + lines(9, "  - { key: 'k%d', tier: free }"), "p.yaml:12:12: a policy may have at most 8 assign rules"},
		{"prices", oneTier + "prices:\n" + lines(9, "  m%d: { input: 1, output: 1 }"), "p.yaml:12:3: a policy may have at most 8 prices and models"},
		{
			"API keys", oneTier + "api_keys:\n" + strings.ReplaceAll(lines(9, "  - { hash: 'sha256:"+strings.Repeat("0", 63)+"%d', key: a }"), "'", `"`),
			"p.yaml:12:13: a policy may have at most 8 API keys",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			most := mostOfAll
			if strings.Contains(test.want, "at most 8 ") {
				most = counts{tiers: 8, limits: 8, rules: 8, models: 8, apiKeys: 8}
			}
			_, err := parseFiles([]File{{Name: "p.yaml", Source: []byte(test.src)}}, limiter.NewCatalog(), most, nil)
			var problems Problems
			if !errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Parse = %v\nwant one problem: %s", err, test.want)
			}
		})
	}
}

// list returns patterns *-from to *-to for a list of models.
func list(from, to int) string {
	var names []string
	for i := from; i < to; i++ {
		names = append(names, fmt.Sprintf("'*-%03d'", i))
	}
	return strings.Join(names, ", ")
}

// TestParsingIsLinear compares what parsing allocates, which is the same in each run.
func TestParsingIsLinear(t *testing.T) {
	perTier := func(n int) uint64 {
		src := []byte(manyTiers(n))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Parse("p.yaml", src, limiter.NewCatalog()); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / uint64(n)
	}
	few, many := perTier(1_000), perTier(16_000)
	if many > 2*few {
		t.Errorf("16,000 tiers allocate %d bytes per tier, 1,000 tiers %d, want at most twice as much", many, few)
	}
}

// A caller may name a tier that does not exist as often as it likes.
func TestUnknownTierIsCheap(t *testing.T) {
	p := mustParse(t, manyTiers(2_000))
	var plan limiter.Plan
	allocs := testing.AllocsPerRun(10, func() {
		if err := p.Resolve(limiter.Time{}, "k", "t20000", "", &plan); err == nil {
			t.Fatal("Resolve(tier t20000) = nil, want an error")
		}
	})
	if allocs > 4 {
		t.Errorf("Resolve(unknown tier) allocates %v times, want at most 4", allocs)
	}
}
