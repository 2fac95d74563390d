// SPDX-License-Identifier: Apache-2.0

package requestid

import "math/rand/v2"

// The withdrawal of an attempt of a check must not withdraw another one that got the answer. An owner
// tells such attempts apart by their ids modulo 63*8*520, or 63*8 once two of them have got it, or 63
// once three have; see package limiter. So the attempts of a call are not random, but follow each
// other in steps. Among 4,000 of a caller, and 6 that members make of each, no two are the same modulo
// 63*8*520; among 9 of a caller, and 6 of each, none are the same modulo 63*8, nor modulo 63.
const (
	callerStep = 7
	memberStep = 63*520 + 9
)

// NextAttempt returns the id of the attempt to make a call that the caller makes after last; 0: it
// is the first, whose id is random. No id is 0.
func NextAttempt(last uint64) uint64 {
	if last == 0 {
		return rand.Uint64()>>1 + 1 // the next ones do not overflow
	}
	return max(last+callerStep, 1)
}

// NextMemberAttempt returns the id of the attempt that a member makes of a call for its caller,
// after another one of the caller or of the member.
func NextMemberAttempt(last uint64) uint64 { return max(last+memberStep, 1) }
