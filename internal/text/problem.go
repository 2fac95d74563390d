// SPDX-License-Identifier: Apache-2.0

package text

import (
	"strconv"
	"unicode"
	"unicode/utf8"
)

// MaxNameBytes is how many bytes the name of a tier or a model may have in a call.
const MaxNameBytes = 256

// Problem returns what is wrong with a text that a caller sent, to follow the name of its
// field, or "" if it is printable UTF-8 of atLeast to atMost bytes. A space is printable,
// other white space is not.
func Problem(s string, atLeast, atMost int) string {
	switch {
	case len(s) < atLeast:
		return "must not be empty"
	case len(s) > atMost:
		return "must be at most " + strconv.Itoa(atMost) + " bytes"
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return unicodeProblem(s)
		}
	}
	return ""
}

func unicodeProblem(s string) string {
	if !utf8.ValidString(s) {
		return "must be valid UTF-8"
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return "must be printable"
		}
	}
	return ""
}
