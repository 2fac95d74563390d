// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"strconv"
	"strings"
	"unicode/utf8"
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
	best, least := "", min(len(name)/3, 2)+1
	if len(name) <= maxShown {
		for _, c := range candidates {
			if d := distance(strings.ToLower(name), c); d < least {
				best, least = c, d
			}
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance counts the characters of two short strings that are wrong, missing,
// too many or swapped with their neighbour.
func distance(a, b string) int {
	// Row i is of a[:i]; a swap looks back two rows.
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, above, row = above, row, before
		row[0] = i + 1
		for j := range len(b) {
			change := above[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, row[j]+1, above[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
