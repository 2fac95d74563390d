// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// FuzzParse: no input makes the parser panic, every error is Problems with a
// position, and what it accepts resolves and explains.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(defaultYAML))
	for _, seed := range []string{
		"", "tiers:", "tiers: {free: {requests: 1/min}}\n---\n", "a: &a [*a]", "tiers: &a {x: *a}",
		"tiers: {a: &x {requests: 1/s}, b: {<<: *x, tokens: 5/1h}}", "\xff", "tiers: {a: {zone: Local}}",
		"tiers: {a: {limits: [{dimension: spend, limit: $0.000001, window: month}]}}", "- -\n#\n -\n", "? [a]: b",
		"tiers: {a: {limits: [{dimension: spend, limit: $1, window: month, starts: 31}, {name: b, dimension: spend, limit: $1, window: day, starts: 23:59}]}}",
		"tiers: {a: {spend: $1/day}}\nprices: {m: {input: 1, output: 2, cache_write: 1.25, request: 0.01, service_tiers: {flex: 0.5, priority: 2}}}",
		"tiers: {a: {tokens: 5/min}}\nassign:\n  - { key: a/b, tier: a } # c\n  - { key: \"a/*\", tier: a }\noverrides:\n- { key: a/b, limit: tokens, value: 7/h, until: 2026-12-24 }\n",
		"tiers: {a: {spend: $5/day, zone: Europe/Berlin}}\ndefault_tier: a\noverrides: [raise k spend to $7/month until 2026-12-24T00:00:00Z because x]\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		catalog := limiter.NewCatalog()
		p, err := Parse("fuzz.yaml", src, catalog)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("Parse error = %v (%T), want Problems", err, err)
			}
			for _, p := range problems {
				if p.Line < 1 || p.Column < 1 || p.Message == "" {
					t.Fatalf("problem without position or text: %+v", p)
				}
			}
			return
		}
		again, err := Parse("fuzz.yaml", src, catalog)
		if err != nil || again.Digest() != p.Digest() {
			t.Fatalf("second Parse = %v, digests differ: %v", err, Diff(p, again))
		}
		edited, err := p.With(Delta{Assign: []Assignment{{Key: "fuzz/new", Tier: p.Tiers()[0]}}})
		if err == nil {
			edited, err = edited.With(Delta{Unassign: []string{"fuzz/new"}})
		}
		// An override of that key, or a rule for it, may stand against the edit.
		if err == nil && edited.Digest() != p.Digest() && !strings.Contains(string(src), "fuzz/new") {
			t.Fatalf("digests differ after an edit and its opposite: %v", Diff(p, edited))
		}
		p.Ended(time.Unix(1<<31, 0))
		var plan limiter.Plan
		for _, tier := range p.Tiers() {
			if err := p.Resolve(limiter.Time{}, "a/b", tier, "m", &plan); err != nil {
				t.Fatalf("Resolve(tier %q) = %v", tier, err)
			}
		}
	})
}
