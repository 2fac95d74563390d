// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// naiveMatch is the definition: a star is any run of characters.
func naiveMatch(p, s string, separator byte) bool {
	star := ".*"
	if separator != 0 {
		star = "[^" + string(separator) + "]*"
	}
	return regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, star) + "$").MatchString(s)
}

func TestMatchEqualsDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab/*]{0,10}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab/]{0,12}`).Draw(t, "name")
		for _, separator := range []byte{0, '/'} {
			if got, want := newPattern(p).match(s, separator), naiveMatch(p, s, separator); got != want {
				t.Fatalf("match(%q, %q, %q) = %v, want %v", p, s, separator, got, want)
			}
		}
	})
}

func TestOverlapsEqualsSearch(t *testing.T) {
	// Any two patterns of up to 4 characters that overlap have a common name
	// of up to 8.
	names := words("ab", 8)
	rapid.Check(t, func(t *rapid.T) {
		p := newPattern(rapid.StringMatching(`[ab*]{0,4}`).Draw(t, "p"))
		q := newPattern(rapid.StringMatching(`[ab*]{0,4}`).Draw(t, "q"))
		want := slices.ContainsFunc(names, func(s string) bool { return p.match(s, 0) && q.match(s, 0) })
		if got := p.overlaps(q); got != want {
			t.Fatalf("overlaps(%q, %q) = %v, want %v", p.text, q.text, got, want)
		}
	})
}

// words returns every word over the letters of up to n characters.
func words(letters string, n int) []string {
	all := []string{""}
	for from := 0; n > 0; n-- {
		to := len(all)
		for _, w := range all[from:to] {
			for _, c := range letters {
				all = append(all, w+string(c))
			}
		}
		from = to
	}
	return all
}

// better is the precedence as in the package comment.
func better(p, q string) bool {
	literals := func(s string) int { return len(s) - strings.Count(s, "*") }
	isName := func(s string) bool { return !strings.Contains(s, "*") }
	switch {
	case isName(p) != isName(q):
		return isName(p)
	case literals(p) != literals(q):
		return literals(p) > literals(q)
	case strings.Count(p, "*") != strings.Count(q, "*"):
		return strings.Count(p, "*") < strings.Count(q, "*")
	}
	return p < q
}

func TestMostSpecificRuleWins(t *testing.T) {
	segment := rapid.StringMatching(`[ab]{0,2}\*?[ab]{1,2}|\*|[ab]{1,2}\*`)
	rapid.Check(t, func(t *rapid.T) {
		join := func(parts []string) string { return strings.Join(parts, "/") }
		keys := rapid.SliceOfNDistinct(rapid.Map(rapid.SliceOfN(segment, 1, 3), join), 1, 12, rapid.ID).Draw(t, "keys")
		scope := join(rapid.SliceOfN(rapid.StringMatching(`[ab]{1,3}`), 1, 3).Draw(t, "scope"))

		src := "tiers:\n"
		for i := range keys {
			src += fmt.Sprintf("  t%d: {}\n", i)
		}
		src += "  fallback: {}\ndefault_tier: fallback\nassign:\n"
		for i, k := range keys {
			src += fmt.Sprintf("  - { key: %q, tier: t%d }\n", k, i)
		}
		p, err := Parse("p.yaml", []byte(src), limiter.NewCatalog())
		if err != nil {
			t.Fatal(err)
		}
		want, winner := "fallback", ""
		for i, k := range keys {
			if naiveMatch(k, scope, '/') && (winner == "" || better(k, winner)) {
				want, winner = fmt.Sprintf("t%d", i), k
			}
		}
		var plan limiter.Plan
		if err := p.Resolve(limiter.Time{}, scope, "", "", &plan); err != nil {
			t.Fatal(err)
		}
		if plan.Tier != want {
			t.Fatalf("Resolve(%q).Tier = %s, want %s (%q)\n%s", scope, plan.Tier, want, winner, src)
		}
	})
}

func TestMostSpecificModelWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		models := rapid.SliceOfNDistinct(rapid.StringMatching(`\*|[ab]{1,3}|[ab]{0,2}\*[ab]{1,2}|[ab]{1,2}\*[ab]?`), 1, 10, rapid.ID).Draw(t, "models")
		name := rapid.StringMatching(`[ab]{0,4}`).Draw(t, "name")
		src := "tiers: { free: {} }\ndefault_tier: free\nprices:\n"
		for i, m := range models {
			src += fmt.Sprintf("  %q: { input: %d, output: 0 }\n", m, i+1)
		}
		p, err := Parse("p.yaml", []byte(src), limiter.NewCatalog())
		if err != nil {
			t.Fatal(err)
		}
		want, winner := int64(0), ""
		for i, m := range models {
			if naiveMatch(m, name, 0) && (winner == "" || better(m, winner)) {
				want, winner = int64(i+1)*micros, m
			}
		}
		var plan limiter.Plan
		if err := p.Resolve(limiter.Time{}, "k", "", name, &plan); err != nil {
			t.Fatal(err)
		}
		if plan.Rates.InputPrice != want || plan.Rates.Priced != (winner != "") {
			t.Fatalf("Resolve(model %q): price %d, want %d (%q)", name, plan.Rates.InputPrice, want, winner)
		}
	})
}

func TestModelLimitsAreTheMatchingOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lists := rapid.SliceOfN(rapid.SliceOfNDistinct(rapid.StringMatching(`\*|[ab]{1,3}|[ab]{0,2}\*[ab]{0,1}`), 1, 3, rapid.ID), 1, 6).Draw(t, "lists")
		name := rapid.StringMatching(`[ab]{1,4}`).Draw(t, "name")
		src := "tiers:\n  free:\n    limits:\n"
		var want []string
		for i, list := range lists {
			src += fmt.Sprintf("      - { name: l%d, dimension: requests, limit: %d, window: min, models: [\"%s\"] }\n", i, i, strings.Join(list, `", "`))
			if slices.ContainsFunc(list, func(m string) bool { return naiveMatch(m, name, 0) }) {
				want = append(want, fmt.Sprintf("l%d", i))
			}
		}
		p, err := Parse("p.yaml", []byte(src), limiter.NewCatalog())
		if err != nil {
			t.Fatal(err)
		}
		var plan limiter.Plan
		if err := p.Resolve(limiter.Time{}, "k", "free", name, &plan); err != nil {
			t.Fatal(err)
		}
		var got []string
		if set := plan.Levels[0].Model; set != nil {
			for _, l := range set.Limits() {
				got = append(got, l.Name)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("Resolve(model %q): limits %v, want %v\n%s", name, got, want, src)
		}
	})
}
