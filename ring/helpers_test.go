// SPDX-License-Identifier: Apache-2.0

package ring_test

import (
	"fmt"
	"slices"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/ring"
)

// mustNew returns the table of members.
func mustNew(t rapid.TB, members ...string) *ring.Table {
	t.Helper()
	table, err := ring.New(members)
	if err != nil {
		t.Fatalf("New(%q): %v", members, err)
	}
	return table
}

// pods returns the names of a StatefulSet of n, where limiter-1 and limiter-11
// end in digits as the points' indices do.
func pods(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("limiter-%d", i)
	}
	return names
}

// without returns members less one.
func without(members []string, left string) []string {
	return slices.DeleteFunc(slices.Clone(members), func(m string) bool { return m == left })
}

// loads returns how many partitions each member owns, and the most.
func loads(table *ring.Table) (counts map[string]int, most int) {
	counts = map[string]int{}
	for p := range ring.Partitions {
		counts[table.Owner(p)]++
		most = max(most, counts[table.Owner(p)])
	}
	return counts, most
}

// newLibrary returns a ring of the library with our sizes and none of our
// workarounds.
func newLibrary(members []string) *consistent.Consistent {
	return consistent.New(bare(members), consistent.Config{
		Hasher: unseeded{}, PartitionCount: ring.Partitions, ReplicationFactor: 200, Load: 1.1,
	})
}

type unseeded struct{}

func (unseeded) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }

// bare returns members for the library, without a terminator.
func bare(members []string) []consistent.Member {
	all := make([]consistent.Member, len(members))
	for i, m := range members {
		all[i] = bareName(m)
	}
	return all
}

type bareName string

func (n bareName) String() string { return string(n) }
