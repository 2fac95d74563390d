// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/keypath"
)

const (
	// Partitions is the number of partitions of the key space. It is part of the
	// wire format, and equal to limiter.Partitions.
	Partitions = keypath.Partitions

	// MaxMembers is how many members a table can have. With more of them a member
	// would own fewer than 8 partitions on average, which balances badly.
	MaxMembers = Partitions / 8
)

// These constants determine the owners. Two processes that differ in any of them
// would split the cluster, so [Layout] covers all of them.
const (
	library     = "github.com/buraksezer/consistent v1.1.0"
	replicas    = 200                // points per member on the circle
	loadPercent = 110                // most partitions of a member, in percent of the mean
	hashSeed    = 0x6275636b6574     // of the circle; keys are hashed with seed 0
	pointFormat = "index:member/"    // see pointKey
	keyFormat   = "xxhash64(root)%P" // see PartitionOf
)

// Layout returns a digest of everything that a table depends on besides its
// members: the library and its version, the numbers of partitions and points,
// the load bound and the hash seed. Members with different layouts must not
// share a cluster, because they would compute different owners for a key.
func Layout() uint64 {
	return xxhash.Sum64String(fmt.Sprintf("%s P=%d RF=%d load=%d%% seed=%#x point=%s key=%s",
		library, Partitions, replicas, loadPercent, uint64(hashSeed), pointFormat, keyFormat))
}

// PartitionOf returns the partition of a key, from 0 to [Partitions]-1. All keys
// with the same root are in the same partition.
func PartitionOf(key string) int { return keypath.Partition(key, Partitions) }

// capacity returns how many partitions each of n members may own at most:
// loadPercent of the mean, rounded up.
func capacity(n int) int {
	return (Partitions*loadPercent + 100*n - 1) / (100 * n)
}

// circleHash hashes points and partitions onto the circle. It gives the same
// result in every process.
type circleHash struct{}

// Sum64 implements consistent.Hasher.
func (circleHash) Sum64(b []byte) uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(hashSeed)
	_, _ = d.Write(b) // never fails
	return d.Sum64()
}

// node is a member as the library sees it. The terminator keeps the name apart
// from the index in the point keys of every version of the library.
type node string

// String implements consistent.Member.
func (n node) String() string { return string(n) + "/" }

// pointKey returns the bytes to hash for point index of a member.
func pointKey(name string, index int) []byte {
	key := make([]byte, 0, len(name)+4)
	key = strconv.AppendInt(key, int64(index), 10)
	key = append(key, ':')
	return append(key, name...)
}
