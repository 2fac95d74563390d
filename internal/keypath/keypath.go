// SPDX-License-Identifier: Apache-2.0

// Package keypath says how a key is split and hashed. Nodes and clients must
// agree on it, because it decides which member owns a key.
package keypath

import (
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Separator stands between the segments of a key.
const Separator = "/"

// Partitions is how many partitions the keys of a cluster have.
const Partitions = 4096

// Root returns the first segment of a key.
func Root(key string) string {
	root, _, _ := strings.Cut(key, Separator)
	return root
}

// RootHash returns the xxHash64, with seed 0, of the first segment of a key.
func RootHash(key string) uint64 { return xxhash.Sum64String(Root(key)) }

// Partition returns which of n partitions a key belongs to: its [RootHash]
// modulo n. n must be positive.
func Partition(key string, n int) int { return int(RootHash(key) % uint64(n)) }
