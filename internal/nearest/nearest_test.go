// SPDX-License-Identifier: Apache-2.0

package nearest

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestWord(t *testing.T) {
	words := []string{"tokens", "requests", "input_tokens", "spend", "min"}
	for word, want := range map[string]string{
		"token": "tokens", "Requests": "requests", "reqeusts": "requests", "input_token": "input_tokens",
		"mn": "min", "spent": "spend", "images": "", "": "", strings.Repeat("x", 1000): "",
	} {
		if got := Word(word, words); got != want {
			t.Errorf("Word(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestOneEdit(t *testing.T) {
	word := rapid.StringMatching(`[abAB]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		if got, want := OneEdit(a, b), Distance(strings.ToLower(a), strings.ToLower(b)) <= 1; got != want {
			t.Fatalf("OneEdit(%q, %q) = %v, want %v", a, b, got, want)
		}
	})
	near := false
	if n := testing.AllocsPerRun(100, func() { near = OneEdit("Input_token", "input_tokens") }); n != 0 || !near {
		t.Errorf("OneEdit = %t allocates %v times, want true and 0", near, n)
	}
}

func TestDistanceIsAMetric(t *testing.T) {
	word := rapid.StringMatching(`[abc]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		d := Distance(a, b)
		if d != Distance(b, a) {
			t.Fatalf("Distance(%q, %q) is not symmetric", a, b)
		}
		if (d == 0) != (a == b) || d > max(len(a), len(b)) || d < len(a)-len(b) {
			t.Fatalf("Distance(%q, %q) = %d", a, b, d)
		}
		if len(a) > 0 {
			if got := Distance(a, a[1:]+"x"); got > 2 {
				t.Fatalf("Distance(%q, one removed and one added) = %d", a, got)
			}
		}
	})
}
