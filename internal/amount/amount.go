// SPDX-License-Identifier: Apache-2.0

// Package amount has the bound of all amounts and how people read them.
package amount

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// Max is the largest amount that a caller may name: the largest integer up to
// which every reader of JSON counts exactly.
const Max = 1 << 53

// MaxText is how messages write [Max].
const MaxText = "2^53"

// Group writes n with a comma between groups of three digits: 1,234,567.
func Group(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Plural writes n with a word: 1 key, 2,000 keys. many is for words whose plural is not just
// an s.
func Plural(n int64, one string, many ...string) string {
	word := one
	if n != 1 {
		word = one + "s"
		if len(many) > 0 {
			word = many[0]
		}
	}
	return Group(n) + " " + word
}

// Shares divides whole units, such as 100 for percent, in proportion to parts that are not
// negative. The shares are rounded so that their sum is whole: who has the largest remainder
// gets a unit more. Without any part above 0, they are all 0.
func Shares(whole int64, parts []float64) []int64 {
	shares := make([]int64, len(parts))
	total := 0.0
	for _, p := range parts {
		total += p
	}
	if !(total > 0) {
		return shares
	}
	remainders, order, left := make([]float64, len(parts)), make([]int, len(parts)), whole
	for i, p := range parts {
		exact := p / total * float64(whole)
		shares[i] = int64(math.Floor(exact + 1e-9)) // what is whole but for rounding errors
		remainders[i], order[i], left = exact-float64(shares[i]), i, left-shares[i]
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(remainders[b], remainders[a]) })
	for _, i := range order[:max(min(left, int64(len(order))), 0)] {
		shares[i]++
	}
	return shares
}
