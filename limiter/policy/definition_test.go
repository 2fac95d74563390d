// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

// TestDefinitionIsExact: a policy that is written and read again is the same.
func TestDefinitionIsExact(t *testing.T) {
	example, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]string{
		"default": DefaultYAML(), "example": string(example), "empty tier": "tiers: { a: {} }\n",
		"windows":      "tiers: { a: { zone: Asia/Tokyo, limits: [ { dimension: spend, limit: $1.25, window: day, starts: \"09:30\" }, { name: h, dimension: tokens, limit: 5, window: hour, algorithm: fixed_window }, { name: l, dimension: tokens, limit: 5, window: 24h, algorithm: fixed_window }, { name: y, dimension: tokens, limit: 5, window: year, slices: off }, { name: z, dimension: images, limit: 5, window: week, durability: async, unreachable: open } ] } }\n",
		"odd names":    "tiers: { a: { tokens: 1/min } }\nassign: [ { key: 'k\"\\: {}/*', tier: a }, { key: '键 #', tier: a } ]\nprices: { 'm: \"x\"': { input: 0.000001, output: 0 } }\nmodels: { 'm\\*': { bound_output: false } }\n",
		"only a model": "tiers: { a: {} }\nmodels: { m: { default_output_tokens: 0 }, n: { weights: { output: 2.5 } } }\n",
	} {
		p, err := Parse("p.yaml", []byte(src), limiter.NewCatalog())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var out bytes.Buffer
		if err := p.Definition().WriteYAML(&out, nil); err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again.yaml", out.Bytes(), limiter.NewCatalog())
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, &out)
		} else if again.Digest() != p.Digest() {
			t.Errorf("%s: another policy: %v\n%s", name, Diff(p, again), &out)
		}
	}
}

// TestCells: each line of a limit and a price says what it is.
func TestCells(t *testing.T) {
	d := &Definition{
		Tiers:  []TierDefinition{{Name: "a", Zone: "UTC", Limits: []LimitDefinition{{Name: "n", Dimension: "tokens", Limit: "1", Window: "min"}}}},
		Models: []ModelDefinition{{Model: "m", WeightOutput: "2"}},
	}
	var out bytes.Buffer
	cells := map[int]Cell{}
	if err := d.WriteYAML(&out, func(line int, c Cell) { cells[line] = c }); err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(out.String(), "\n") {
		key, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if c, ok := cells[i+1]; ok && c.Key != "" && c.Key != key {
			t.Errorf("line %q is said to be %+v", line, c)
		}
	}
	found := 0
	for _, c := range cells {
		if c.Section == "limits" && c.Key == "window" && strings.Join(c.Names, " ") == "a n" || c.Section == "models" && c.Key == "output" {
			found++
		}
	}
	if found != 2 {
		t.Errorf("cells = %+v, want the window of a limit and a weight", cells)
	}
}
