// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKeyBytes is the length of the longest key.
const MaxKeyBytes = 256

// KeyProblem says what is wrong with a key, "" if nothing is: it has 1 to
// [MaxLevels] segments, none of them empty, and is 1 to [MaxKeyBytes] bytes of
// printable UTF-8. A space is printable, other white space is not. The engine
// itself takes keys as valid.
func KeyProblem(key string) string {
	switch {
	case key == "":
		return "must not be empty"
	case len(key) > MaxKeyBytes:
		return fmt.Sprintf("must be at most %d bytes", MaxKeyBytes)
	}
	for i := range len(key) {
		if c := key[i]; c < ' ' || c > '~' {
			if problem := unprintable(key); problem != "" {
				return problem
			}
			break
		}
	}
	switch {
	case key[0] == '/' || key[len(key)-1] == '/' || strings.Contains(key, "//"):
		return "segments must not be empty"
	case strings.Count(key, "/") >= MaxLevels:
		return fmt.Sprintf("must have at most %d segments", MaxLevels)
	}
	return ""
}

func unprintable(s string) string {
	if !utf8.ValidString(s) {
		return "must be valid UTF-8"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "must be printable"
	}
	return ""
}
