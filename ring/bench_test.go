// SPDX-License-Identifier: Apache-2.0

package ring_test

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/bucketring/bucketring/ring"
)

// BenchmarkNew measures a change of members.
func BenchmarkNew(b *testing.B) {
	for _, n := range []int{3, 10, 30, 100} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			members := pods(n)
			for b.Loop() {
				mustNew(b, members...)
			}
		})
	}
}

// BenchmarkShadowTables computes the heirs with one library table per member, for
// comparison with BenchmarkNew.
func BenchmarkShadowTables(b *testing.B) {
	for _, n := range []int{3, 10, 30} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			members := pods(n)
			for b.Loop() {
				for _, m := range members {
					newLibrary(without(members, m))
				}
			}
		})
	}
}

// BenchmarkLookup measures finding the owner of a key: one load of the current
// table, one hash, one index.
func BenchmarkLookup(b *testing.B) {
	var current atomic.Pointer[ring.Table]
	current.Store(mustNew(b, pods(10)...))
	keys := roots()
	benchmarkLookup(b, func(i int) bool { return current.Load().Owner(ring.PartitionOf(keys[i])) != "" })
}

// BenchmarkLocateKey measures the same in the library.
func BenchmarkLocateKey(b *testing.B) {
	c := newLibrary(pods(10))
	var keys [][]byte
	for _, key := range roots() {
		keys = append(keys, []byte(key))
	}
	benchmarkLookup(b, func(i int) bool { return c.LocateKey(keys[i]) != nil })
}

// roots returns 1,024 keys of one segment.
func roots() []string {
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = fmt.Sprintf("team-%d", i)
	}
	return keys
}

// benchmarkLookup asks for key 0 to 1,023, alone and from every core.
func benchmarkLookup(b *testing.B, found func(i int) bool) {
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if !found(i % 1024) {
				b.Fatal("a key without an owner")
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if !found(i % 1024) {
					b.Error("a key without an owner")
					return
				}
			}
		})
	})
}

// TestLookupAllocatesNothing checks the hot path.
func TestLookupAllocatesNothing(t *testing.T) {
	var current atomic.Pointer[ring.Table]
	current.Store(mustNew(t, pods(10)...))
	got := testing.AllocsPerRun(1000, func() {
		table, partition := current.Load(), ring.PartitionOf("acme/alice")
		if table.Owner(partition) == table.Heir(partition) || table.OwnerIndex(partition) < 0 {
			t.Error("a partition without an owner, or one that is its own heir")
		}
	})
	if got != 0 {
		t.Errorf("a lookup allocates %v times, want 0", got)
	}
}
