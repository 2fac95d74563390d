// SPDX-License-Identifier: Apache-2.0

// Package nearest finds the valid word nearest to a misspelled one, for messages.
package nearest

import "strings"

// Word returns the candidate nearest to word, ignoring case; "" if none is near. Near
// means at most one edit per three characters, and at most two edits.
func Word(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, bestDistance := "", min(2, max(1, (len(word)+1)/3))+1
	for _, c := range candidates {
		if len(c)-len(word) >= bestDistance || len(word)-len(c) >= bestDistance {
			continue
		}
		if d := Distance(strings.ToLower(word), strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// DidYouMean names the candidate that word is probably a misspelling of, to follow a message:
// "; did you mean key?". It is "" if none is near.
func DidYouMean(word string, candidates []string) string {
	if near := Word(word, candidates); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// Hint is DidYouMean, or names all candidates if none is near: "; known are key, tier".
func Hint(word string, candidates []string) string {
	if hint := DidYouMean(word, candidates); hint != "" {
		return hint
	}
	return "; known are " + strings.Join(candidates, ", ")
}

// OneEdit reports whether two words differ by at most one edit, ignoring the case of ASCII
// letters. It allocates nothing.
func OneEdit(a, b string) bool {
	for len(a) > 0 && len(b) > 0 && lower(a[0]) == lower(b[0]) {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && lower(a[len(a)-1]) == lower(b[len(b)-1]) {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a) == 2 && len(b) == 2 {
		return lower(a[0]) == lower(b[1]) && lower(a[1]) == lower(b[0])
	}
	return len(a) <= 1 && len(b) <= 1
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// Distance returns the edit distance of two strings, in bytes: the number of
// insertions, deletions, substitutions and swaps of neighbours.
func Distance(a, b string) int {
	before, previous, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, previous, row = previous, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(previous[j]+1, row[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
