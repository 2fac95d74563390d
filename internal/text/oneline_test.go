// SPDX-License-Identifier: Apache-2.0

package text

import "testing"

func TestOneLine(t *testing.T) {
	for s, want := range map[string]string{
		"":                          "",
		"plain  text\n":             "plain text",
		"2 errors:\n\t* a\n\n\t* b": "2 errors: * a * b",
		"p.yaml:1:3: no\n    x: y\n      ^\np.yaml:2:1: nor this\nand 3 more problems": "p.yaml:1:3: no; p.yaml:2:1: nor this; and 3 more problems",
		"p.yaml:1:1: no\n    ^\n    ^": "p.yaml:1:1: no",
		"b.yml: is not read\np.yaml:1:1: no\n    x\n    ^\np.yaml:2:1: no\n    y\n    ^": "b.yml: is not read; p.yaml:1:1: no; p.yaml:2:1: no",
	} {
		if got := OneLine(s); got != want {
			t.Errorf("OneLine(%q) = %q, want %q", s, got, want)
		}
	}
}
