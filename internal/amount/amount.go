// SPDX-License-Identifier: Apache-2.0

// Package amount has the bound of all amounts and how people read them.
package amount

import "strconv"

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
