// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strings"
	"testing"
)

// TestUsageMetrics: what calls were charged is in the metrics once, at one of the members, also
// if each call is sent to both and repeated.
func TestUsageMetrics(t *testing.T) {
	nodes := startCluster(t, 2, nil)
	agree(t, nodes...)
	for i := range 4 {
		for k := range 3 {
			n := nodes[(i+k)%2]
			n.post("/v1/check", `{"key":"acme/check%d","tier":"standard","input_tokens":100,"output_tokens":10,"request_id":"check%d"}`, i, i)
			n.post("/v1/reserve", `{"key":"acme/reserve%d","tier":"standard","input_tokens":100,"max_output_tokens":500,"request_id":"reserve%d"}`, i, i)
		}
		for _, n := range nodes {
			n.post("/v1/settle", `{"key":"acme/reserve%d","request_id":"reserve%d","input_tokens":100,"cached_input_tokens":40,"output_tokens":30}`, i, i)
		}
	}
	sums := map[string]float64{}
	for _, n := range nodes {
		_, text := n.get("/metrics")
		for line := range strings.Lines(text) {
			var value float64
			if name, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && (strings.HasPrefix(name, "bucketring_charged_") || strings.HasPrefix(name, "bucketring_refunded_")) {
				if _, err := fmt.Sscan(v, &value); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				sums[name] += value
			}
		}
	}
	for name, want := range map[string]float64{
		`bucketring_charged_tokens_total{kind="input",model="other",tier="standard"}`:        4*100 + 4*60,
		`bucketring_charged_tokens_total{kind="cached_input",model="other",tier="standard"}`: 4 * 40,
		`bucketring_charged_tokens_total{kind="output",model="other",tier="standard"}`:       4*10 + 4*30,
		`bucketring_refunded_tokens_total{kind="input",model="other",tier="standard"}`:       0,
	} {
		if got, ok := sums[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v; all: %v", name, got, want, sums)
		}
	}
	if dollars := sums[`bucketring_charged_dollars_total{model="other",tier="standard"}`]; dollars <= 0 || dollars > 1 {
		t.Errorf("%v dollars, want the price of the tokens", dollars)
	}
}
