// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"strconv"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/nearest"
)

// maxShown is how many bytes of a wrong value a message repeats.
const maxShown = 64

// show quotes text for a message, cut at a character when it is long.
func show(s string) string {
	if len(s) <= maxShown {
		return strconv.Quote(s)
	}
	end := maxShown
	for end > maxShown-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return strconv.Quote(s[:end]) + "... (" + strconv.Itoa(len(s)) + " bytes)"
}

// didYouMean names the candidate that is a typing mistake away from name.
func didYouMean(name string, candidates []string) string {
	if near := nearest.Word(name, candidates); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}
