// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

// TestProblemsHideNoOthers: what is wrong whatever else is corrected is reported at once, and
// what may be right once something else is corrected is not reported.
func TestProblemsHideNoOthers(t *testing.T) {
	for name, tt := range map[string]struct {
		files []string
		want  []string // file:line of each problem
	}{
		"overrides of a policy with a wrong limit": {
			[]string{`tiers:
  free: { requests: 10/minn }
  gold: { tokens: 1000/min }
default_tier: gold
overrides:
  - raise acme tokns to 500/min until 2026-12-24
  - { key: acme, limit: requests, value: 5, until: 2026-12-24 }
  - { key: acme, limit: tokens, value: $5, until: 2026-12-24 }
  - { key: acme, limit: nope, value: 5, until: 2026-12-24 }
`},
			[]string{"a.yaml:2", "a.yaml:6", "a.yaml:8", "a.yaml:9"},
		},
		"a wrong default tier": {
			[]string{`tiers:
  free: { limits: [{ name: x, dimension: requests, limit: 5, window: min }] }
  gold: { limits: [{ name: x, dimension: tokens, limit: 5, window: min }] }
default_tier: goldd
overrides:
  - { key: acme, limit: x, value: 5, until: 2026-12-24 }
`},
			[]string{"a.yaml:4"},
		},
		"a limit without a name": {
			[]string{`tiers:
  free: { limits: [{ name: "x y", dimension: requests, limit: 5, window: min }] }
default_tier: free
overrides:
  - { key: acme, limit: x, value: 5, until: 2026-12-24 }
`},
			[]string{"a.yaml:2"},
		},
		"a tier with a wrong name": {
			[]string{`tiers:
  free: {}
  "g o": { requests: 5/min }
default_tier: free
overrides:
  - { key: acme, limit: requests, value: 5, until: 2026-12-24 }
`},
			[]string{"a.yaml:3"},
		},
		"another file that is no YAML": {
			[]string{`default_tier: gold
assign:
  - { key: "a//b", tier: gold }
  - { key: b, tier: gold }
api_keys:
  - { hash: x, key: acme, tier: gold }
overrides:
  - { key: acme, limit: requests, value: 5, until: tomorrow }
  - { key: acme, limit: requests, value: 5, until: 2026-12-24 }
`, "tiers:\n  gold: { requests: 5/min\n"},
			[]string{"a.yaml:3", "a.yaml:6", "a.yaml:8", "b.yaml:2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var files []File
			for i, text := range tt.files {
				files = append(files, File{Name: string(rune('a'+i)) + ".yaml", Source: []byte(text)})
			}
			_, err := ParseFiles(files, limiter.NewCatalog())
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("ParseFiles() = %v, want problems", err)
			}
			var got []string
			for _, p := range problems {
				got = append(got, fmt.Sprintf("%s:%d", p.File, p.Line))
			}
			if strings.Join(got, " ") != strings.Join(tt.want, " ") {
				t.Errorf("problems at %v, want %v:\n%v", got, tt.want, err)
			}
		})
	}
}
