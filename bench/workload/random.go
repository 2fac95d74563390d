// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"math/bits"
	"math/rand/v2"
)

// random is a sequence of random numbers. It takes only the 64 bits of PCG from the
// library and does the arithmetic itself, so that it is the same in all versions.
type random struct{ pcg rand.PCG }

// The sequences. Each part of a workload has its own, so that a change of one part
// leaves the others as they were.
const (
	ofKeys = iota + 1
	ofTiers
	ofModels
	ofTokens
	ofLLM
	ofRetries
)

func newRandom(seed, sequence uint64) random {
	var r random
	a := mix(seed ^ mix(sequence))
	r.pcg.Seed(a, mix(a))
	return r
}

// below returns a number from 0 to n-1; n is at least 1. Some come more often than
// others, by a part of n/2^64.
func (r *random) below(n uint64) uint64 { return scale(r.pcg.Uint64(), n) }

// scale brings x, one of 2^64, to 0 to n-1.
func scale(x, n uint64) uint64 {
	high, _ := bits.Mul64(x, n)
	return high
}

// fraction returns a number from 0 to 1, without 1.
func (r *random) fraction() float64 { return float64(r.pcg.Uint64()>>11) * 0x1p-53 }

// hit is true for that share of its calls. What is a hit for a share is one for
// every larger share.
func (r *random) hit(s share) bool { return r.below(uint64(whole)) < uint64(s) }

// mix is the finalizer of SplitMix64: every bit of x changes half of the result.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
