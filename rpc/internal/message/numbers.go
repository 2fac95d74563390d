// SPDX-License-Identifier: Apache-2.0

package message

import (
	"math/bits"
	"strconv"
	"time"
)

// Share is how much of a limit is left.
type Share struct{ Remaining, Capacity int64 }

// Tighter reports whether less of a is left than of b, as a share of its capacity
// or, if they have the same share left, as a number.
func Tighter(a, b Share) bool {
	ah, al := bits.Mul64(uint64(a.Remaining), uint64(b.Capacity))
	bh, bl := bits.Mul64(uint64(b.Remaining), uint64(a.Capacity))
	switch {
	case ah != bh:
		return ah < bh
	case al != bl:
		return al < bl
	}
	return a.Remaining < b.Remaining
}

// Seconds is d as a decimal number of seconds, rounded up to the millisecond.
func Seconds(d time.Duration) []byte {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond > 0 {
		ms++
	}
	text := strconv.AppendInt(nil, ms/1000, 10)
	if rest := ms % 1000; rest > 0 {
		text = append(text, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
		for text[len(text)-1] == '0' {
			text = text[:len(text)-1]
		}
	}
	return text
}
