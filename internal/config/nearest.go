// SPDX-License-Identifier: Apache-2.0

package config

import "slices"

// Nearest returns the candidate that word was most likely meant to be, or ""
// when none is near: at most one edit, and one more for every three letters.
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/3+1
	for _, c := range candidates {
		if d := distance(word, c); d < bestDistance || d == bestDistance && best == "" {
			best, bestDistance = c, d
		}
	}
	return best
}

func didYouMean(word string) string {
	if word == "" {
		return ""
	}
	return `, did you mean "` + word + `"?`
}

// distance is the Levenshtein distance, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := slices.Clone(row)
		row[0] = i + 1
		for j := range len(b) {
			row[j+1] = min(prev[j+1]+1, row[j]+1)
			if a[i] == b[j] {
				row[j+1] = min(row[j+1], prev[j])
			} else {
				row[j+1] = min(row[j+1], prev[j]+1)
			}
		}
	}
	return row[len(b)]
}
