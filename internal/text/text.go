// SPDX-License-Identifier: Apache-2.0

// Package text checks other people's text, and shows it in messages and logs.
package text

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxShown is how many bytes of a text [Quote] repeats.
const MaxShown = 64

// Quote returns s in quotes, escaped so that it cannot forge a line of a log or a
// header. A text longer than [MaxShown] bytes is cut at a character, and its
// length is added.
func Quote(s string) string {
	if len(s) <= MaxShown {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:cut(s, MaxShown)]) + "... (" + strconv.Itoa(len(s)) + " bytes)"
}

// Shorten returns s as valid UTF-8 of at most limit bytes, followed by "..." if
// it was longer. It escapes nothing.
func Shorten(s string, limit int) string {
	if len(s) <= limit {
		return strings.ToValidUTF8(s, "?")
	}
	return strings.ToValidUTF8(s[:cut(s, limit)], "?") + "..."
}

// cut returns the largest length up to limit that splits no character of s,
// which is longer.
func cut(s string, limit int) int {
	end := limit
	for end > limit-utf8.UTFMax && end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return end
}
