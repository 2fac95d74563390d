// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

const (
	// Partitions is the number of hash slots of the key space. It is part of
	// the wire format, and the same number as that of package limiter.
	Partitions = 4096

	// MaxMembers is how many members a table can have. Above it the mean is
	// below 8 partitions per member, and balance is a matter of luck.
	MaxMembers = Partitions / 8
)

// What follows decides who owns what. Two processes that differ in any of it
// split the cluster, so all of it is in [Layout].
const (
	library     = "github.com/buraksezer/consistent v1.1.0"
	replicas    = 200                // points of a member on the circle
	loadPercent = 110                // the most that a member owns, in percent of the mean
	hashSeed    = 0x6275636b6574     // of the circle; keys are hashed without a seed
	pointFormat = "index:member/"    // see pointKey
	keyFormat   = "xxhash64(root)%P" // see PartitionOf
)

// Layout returns the digest of everything but the members that a table depends
// on: the library and its version, the number of partitions and points, the
// load bound, the hash seed. Members whose layouts differ must not share a
// cluster: they would name different owners for the same key.
func Layout() uint64 {
	return xxhash.Sum64String(fmt.Sprintf("%s P=%d RF=%d load=%d%% seed=%#x point=%s key=%s",
		library, Partitions, replicas, loadPercent, uint64(hashSeed), pointFormat, keyFormat))
}

// PartitionOf returns the partition of a key, from 0 to [Partitions]-1: the
// xxhash64 of the key's root, which is its first segment, modulo [Partitions].
func PartitionOf(key string) int {
	root, _, _ := strings.Cut(key, "/")
	return int(xxhash.Sum64String(root) % Partitions)
}

// capacity returns how many partitions one of n members may own: the mean times
// loadPercent, rounded up.
func capacity(n int) int {
	return (Partitions*loadPercent + 100*n - 1) / (100 * n)
}

// circleHash places points and partitions on the circle, the same way in every
// process.
type circleHash struct{}

// Sum64 implements consistent.Hasher.
func (circleHash) Sum64(b []byte) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(hashSeed)
	_, _ = d.Write(b) // never fails
	return d.Sum64()
}

// A node is a member as the library sees it. Its name ends in a terminator, which
// keeps name and index apart in every layout of points the library has had.
type node string

// String implements consistent.Member.
func (n node) String() string { return string(n) + "/" }

// pointKey returns what is hashed for a member's point number index.
func pointKey(name string, index int) []byte {
	key := make([]byte, 0, len(name)+4)
	key = strconv.AppendInt(key, int64(index), 10)
	key = append(key, ':')
	return append(key, name...)
}
