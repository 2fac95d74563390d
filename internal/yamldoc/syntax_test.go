// SPDX-License-Identifier: Apache-2.0

package yamldoc

import (
	"strings"
	"testing"
)

// TestSyntaxErrors: errors of YAML are at the line where they are, and say what to do.
func TestSyntaxErrors(t *testing.T) {
	const tiers = "tiers:\n  free:\n    limits:\n"
	for _, test := range []struct{ src, want string }{
		{tiers + "    - { limit: 60 window: 1m }\n", "f.yaml:4:5: is not valid YAML: did not find expected ',' or '}': a comma between two fields or the closing bracket is missing"},
		{tiers + "    - { limit: 60, window: 1m\n  pro: 1\n", "f.yaml:4:5: is not valid YAML: did not find expected ',' or '}': a comma"},
		{tiers + "   - { limit: 60 }\n", "f.yaml:4:4: is not valid YAML: did not find expected key: the indentation is that of no line above"},
		{"tiers:\n  free:\n    requests: 60/min\n\n   # a comment\n   pro:\n    requests: 5/min\n", "f.yaml:6:4: is not valid YAML: did not find expected key: the indentation"},
		{"tiers:\n  free:\n    - dimension: requests\n      limit: 60\n     window: 1m\n", "f.yaml:5:6: is not valid YAML: did not find expected '-' indicator: the indentation"},
		{"tiers:\n  free:\n    requests: 60/min\n\tpro: x\n", "f.yaml:4:2: is not valid YAML: found a tab character that violates indentation: YAML does not allow tabs for indentation, write spaces"},
		{"tiers:\n  free: requests: 60/min\n", "f.yaml:2:3: is not valid YAML: mapping values are not allowed in this context: write each key on a line of its own"},
		{"tiers:\n  free:\n    requests: @60\n", "f.yaml:3:5: is not valid YAML: found character that cannot start any token: put a text"},
		{"tiers:\n  free:\n    requests: \"60/min\n  pro: 1\n", "f.yaml:3:5: is not valid YAML: found unexpected end of stream: the closing quote of a text is missing"},
		{"tiers:\n  free: 1\ndefault_tier free\n", "f.yaml:3:1: is not valid YAML: could not find expected ':': write a colon and a space after a key"},
		{"tiers:\n  free: 1\n}\n", "f.yaml:3:1: is not valid YAML: did not find expected key\n"},
		{"tiers:\r\n  free:\r\n    requests: 60/min\r\n\r\n   pro:\r\n", "f.yaml:5:4: is not valid YAML: did not find expected key: the indentation"},
		{"tiers:\n  free:\n    requests: @60\n  pro: |\n    text\n\t# comment\n", "f.yaml:3:5: is not valid YAML: found character that cannot start any token: put a text"},
		{"a:\n  b: |\n    x\n        y\n      z\n  c: 1\n  ]\n", "f.yaml:2:3: is not valid YAML: did not find expected key\n"},
		{"a:\n  b: >-\n    x\n        y\n      z\n  c: 1\n d: 1\n", "f.yaml:7:2: is not valid YAML: did not find expected key: the indentation"},
		{"a:\n  b: |\n      x\n        y\n      z\n  c: 1\n d: 2\n", "f.yaml:7:2: is not valid YAML: did not find expected key: the indentation"},
	} {
		r := &Reader{}
		if _, ok := r.Open("f.yaml", []byte(test.src)); ok || !strings.HasPrefix(r.Err().Error(), test.want) {
			t.Errorf("Open(%q) = %t, %v\nwant %s", test.src, ok, r.Err(), test.want)
		}
	}
}
