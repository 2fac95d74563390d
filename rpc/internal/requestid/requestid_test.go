// SPDX-License-Identifier: Apache-2.0

package requestid

import "testing"

func TestSplit(t *testing.T) {
	for id, want := range map[string][2]string{
		"":                        {"", ""},
		"a":                       {"", "a"},
		"fallback:":               {"", "fallback:"},
		"fallback:m":              {"", "fallback:m"},
		"fallback:m:":             {"", "fallback:m:"},
		"fallback::a":             {"", "fallback::a"},
		"fallback:m:a":            {"m", "a"},
		"fallback:m:a:b":          {"m", "a:b"},
		"fallback:m:fallback:n:a": {"m", "fallback:n:a"},
		"xfallback:m:a":           {"", "xfallback:m:a"},
	} {
		member, original := Split(id)
		if member != want[0] || original != want[1] {
			t.Errorf("Split(%q) = %q, %q, want %q, %q", id, member, original, want[0], want[1])
		}
		if member != "" && Fallback(member, original) != id {
			t.Errorf("Fallback(%q, %q) = %q, want %q", member, original, Fallback(member, original), id)
		}
	}
}

func TestIsFallback(t *testing.T) {
	if !IsFallback(Fallback("m", "a")) || IsFallback("a") || IsFallback("") {
		t.Error("IsFallback does not tell ids of reservations made in fallback from others")
	}
}
