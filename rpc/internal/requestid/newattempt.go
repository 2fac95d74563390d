// SPDX-License-Identifier: Apache-2.0

package requestid

import "math/rand/v2"

// attemptTags is the number of tags by which an owner tells the attempts of one check apart, see
// package limiter.
const attemptTags = 63

// NewAttempt returns the id of another attempt of a call, never 0. An owner does not take it for one
// of the others of the call, so that a withdrawal of those does not withdraw it.
func NewAttempt(others ...uint64) uint64 {
	for {
		attempt := rand.Uint64() | 1
		if len(others) >= attemptTags || !sameTag(attempt, others) {
			return attempt
		}
	}
}

func sameTag(attempt uint64, others []uint64) bool {
	for _, other := range others {
		if attempt%attemptTags == other%attemptTags {
			return true
		}
	}
	return false
}
