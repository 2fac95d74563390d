// SPDX-License-Identifier: Apache-2.0

package requestid

import (
	"strings"
	"testing"
)

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
		"held:":                   {"", "held:"},
		"held::a":                 {"", "held::a"},
		"held:m:":                 {"", "held:m:"},
		"held:m:a":                {"m", "a"},
		"held:m:fallback:n:a":     {"m", "fallback:n:a"},
		"fallback:m:held:n:a":     {"m", "held:n:a"},
		"xheld:m:a":               {"", "xheld:m:a"},
	} {
		member, original := Split(id)
		if member != want[0] || original != want[1] {
			t.Errorf("Split(%q) = %q, %q, want %q, %q", id, member, original, want[0], want[1])
		}
		again := Fallback
		if IsHeld(id) {
			again = Held
		}
		if member != "" && again(member, original) != id {
			t.Errorf("of %q and %q the id %q is made, want %q", member, original, again(member, original), id)
		}
	}
}

func TestIsHeld(t *testing.T) {
	if id := Held("m", "a"); !IsHeld(id) || IsFallback(id) || IsSlice(id) || IsHeld("a") || IsHeld("") || IsHeld(Fallback("m", "a")) {
		t.Error("IsHeld does not tell ids of reservations made from slices from others")
	}
}

func TestIsFallback(t *testing.T) {
	if !IsFallback(Fallback("m", "a")) || IsFallback("a") || IsFallback("") {
		t.Error("IsFallback does not tell ids of reservations made in fallback from others")
	}
}

// TestSlice: the id of a slice is short enough for any owner, and no member can be taken for
// the one that made a reservation in fallback.
func TestSlice(t *testing.T) {
	for holder, want := range map[string]string{
		"node1":                  "slice:node1:ff",
		"::1":                    "slice:::1:ff",
		strings.Repeat("ö", 100): "slice:" + strings.Repeat("ö", 32) + ":ff",
		"":                       "slice::ff",
	} {
		id := Slice(holder, 255)
		if id != want || !IsSlice(id) || IsFallback(id) {
			t.Errorf("Slice(%q) = %q, want %q", holder, id, want)
		}
	}
	if n := len(Slice(strings.Repeat("n", 300), 1<<64-1)); n > 87 {
		t.Errorf("an id of a slice has %d bytes, want at most 87", n)
	}
	if IsSlice("a") || IsSlice("xslice:") || IsSlice("") {
		t.Error("IsSlice does not tell ids of slices from others")
	}
}
