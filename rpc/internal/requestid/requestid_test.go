// SPDX-License-Identifier: Apache-2.0

package requestid

import "testing"

func TestSplit(t *testing.T) {
	for _, test := range []struct {
		id, member, original string
		fallback             bool
	}{
		{"", "", "", false},
		{"req-1", "", "req-1", false},
		{"fallback", "", "fallback", false},
		{"a:b", "", "a:b", false},
		{"fallback:node-1:req-1", "node-1", "req-1", true},
		{"fallback:node-1:a:b", "node-1", "a:b", true},
		{"fallback:", "", "fallback:", true},
		{"fallback:node-1", "", "fallback:node-1", true},
		{"fallback:node-1:", "", "fallback:node-1:", true},
		{"fallback::req-1", "", "fallback::req-1", true},
	} {
		member, original := Split(test.id)
		if member != test.member || original != test.original {
			t.Errorf("Split(%q) = %q, %q; want %q, %q", test.id, member, original, test.member, test.original)
		}
		if got := IsFallback(test.id); got != test.fallback {
			t.Errorf("IsFallback(%q) = %t, want %t", test.id, got, test.fallback)
		}
		if member != "" && Fallback(member, original) != test.id {
			t.Errorf("Fallback(%q, %q) = %q, want %q", member, original, Fallback(member, original), test.id)
		}
	}
}
