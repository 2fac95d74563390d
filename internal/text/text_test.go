// SPDX-License-Identifier: Apache-2.0

package text

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestQuote(t *testing.T) {
	for s, want := range map[string]string{
		"":                            `""`,
		"a\nb\x00":                    `"a\nb\x00"`,
		"\xff":                        `"\xff"`,
		strings.Repeat("a", 64):       `"` + strings.Repeat("a", 64) + `"`,
		strings.Repeat("a", 65):       `"` + strings.Repeat("a", 64) + `"... (65 bytes)`,
		strings.Repeat("é", 33):       `"` + strings.Repeat("é", 32) + `"... (66 bytes)`,
		"a" + strings.Repeat("é", 32): `"a` + strings.Repeat("é", 31) + `"... (65 bytes)`,
		strings.Repeat("x", 63) + "ä": `"` + strings.Repeat("x", 63) + `"... (65 bytes)`,
		strings.Repeat("\x80", 70):    `"` + strings.Repeat(`\x80`, 60) + `"... (70 bytes)`,
	} {
		if got := Quote(s); got != want {
			t.Errorf("Quote(%q) = %s, want %s", s, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	for _, c := range []struct {
		s     string
		limit int
		want  string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc..."}, {"aéé", 4, "aé..."}, {"a\xffb", 5, "a?b"}, {"é", 1, "..."}, {"\xff\xff\xff", 2, "?..."}} {
		if got := Shorten(c.s, c.limit); got != c.want {
			t.Errorf("Shorten(%q, %d) = %q, want %q", c.s, c.limit, got, c.want)
		}
	}
}

func FuzzShown(f *testing.F) {
	f.Add("aé\xff", 2)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit = max(limit%100, 0); !utf8.ValidString(Shorten(s, limit)) || len(Shorten(s, limit)) > max(limit, len(s))+3 {
			t.Errorf("Shorten(%q, %d) = %q", s, limit, Shorten(s, limit))
		}
		if q := Quote(s); strings.ContainsAny(q, "\n\r\x00") || len(q) > 4*MaxShown+40 {
			t.Errorf("Quote(%q) = %q", s, q)
		}
	})
}
