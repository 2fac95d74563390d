// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"math/bits"
	"math/rand/v2"
)

// random is a sequence of random numbers. It uses only the 64 bits of PCG from the
// standard library, so that it is the same in all versions of Go.
type random struct{ pcg rand.PCG }

// Each part of a workload draws from its own sequence, so that a change of one part
// does not change the others.
const (
	seqKeys = iota + 1
	seqTiers
	seqModels
	seqTokens
	seqLLM
	seqRetries
)

func newRandom(seed, sequence uint64) random {
	var r random
	a := mix64(seed ^ mix64(sequence))
	r.pcg.Seed(a, mix64(a))
	return r
}

// below returns a number from 0 to n-1. n must be at least 1. The bias is below
// n/2^64.
func (r *random) below(n uint64) uint64 { return scale(r.pcg.Uint64(), n) }

// scale maps x, uniform over 64 bits, to 0 to n-1.
func scale(x, n uint64) uint64 {
	high, _ := bits.Mul64(x, n)
	return high
}

// fraction returns a number in [0, 1).
func (r *random) fraction() float64 { return float64(r.pcg.Uint64()>>11) * 0x1p-53 }

// chance returns true with probability s. A draw that is true for a share is true for
// every larger share.
func (r *random) chance(s share) bool { return r.below(uint64(fullShare)) < uint64(s) }

// mix64 is the finalizer of SplitMix64: every bit of x affects all bits of the result.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
