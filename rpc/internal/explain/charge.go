// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"
	"strings"
)

// Charge says what a call is charged: "1,212 tokens, 1 request". It is empty if that is nothing,
// or is not for callers.
func Charge(limits []Limit) string {
	var dimensions, parts []string
	for i := range limits {
		l := &limits[i]
		if l.Cost == 0 || l.Hidden || l.Dimension == Concurrent || slices.Contains(dimensions, l.Dimension) {
			continue
		}
		dimensions, parts = append(dimensions, l.Dimension), append(parts, quantity(l, l.Cost))
	}
	return strings.Join(parts, ", ")
}
