// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"strings"
	"testing"
)

func TestMap(t *testing.T) {
	var m Map[string]
	if _, ok := m.Find(Hash{}); ok {
		t.Error("Find in an empty map = true, want false")
	}
	if _, added := m.Add(Of("a"), "alice"); !added {
		t.Error("Add = false, want true")
	}
	if has, added := m.Add(Of("a"), "bob"); added || has != "alice" {
		t.Errorf("Add of a known hash = %q, %t, want alice, false", has, added)
	}
	for secret, want := range map[string]string{"a": "alice", "b": "", "": "", Of("a").String(): ""} {
		got, ok := m.Find(Of(secret))
		if got != want || ok != (want != "") {
			t.Errorf("Find(%q) = %q, %t, want %q", secret, got, ok, want)
		}
	}
	if _, ok := m.Find(Hash{}); ok || m.Len() != 1 {
		t.Errorf("Find(zeros) = %t, Len = %d, want false, 1", ok, m.Len())
	}
	if n := testing.AllocsPerRun(100, func() { m.Find(Of("a")) }); n > 0 {
		t.Errorf("Find allocates %v times, want 0", n)
	}
}

func TestParse(t *testing.T) {
	if h, ok := Parse(Of("a").String()); !ok || h != Of("a") {
		t.Errorf("Parse(String) = %s, %t", h, ok)
	}
	for _, text := range []string{"", "sha256:", strings.Repeat("a", Digits), Prefix + strings.Repeat("g", Digits), Prefix + strings.Repeat("a", Digits+2), "sha512:" + strings.Repeat("a", Digits)} {
		if _, ok := Parse(text); ok {
			t.Errorf("Parse(%q) = true, want false", text)
		}
	}
}
