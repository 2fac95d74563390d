// SPDX-License-Identifier: Apache-2.0

package ring_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/ring"
)

// The tests of this file pin the behaviour of github.com/buraksezer/consistent
// v1.1.0: TestFixed* for defects that are fixed, TestStill* for those that this
// package works around. If one fails after an upgrade, a workaround can be
// removed or a new one is needed.

// TestFixedPointKeysAreDistinct: up to v0.10.0 point 10 of limiter-1 was point 0
// of limiter-11, so the order of joins decided who owned it.
func TestFixedPointKeysAreDistinct(t *testing.T) {
	if a, b := consistent.DefaultReplicaKey("limiter-1", 10), consistent.DefaultReplicaKey("limiter-11", 0); string(a) == string(b) {
		t.Errorf("DefaultReplicaKey gives %q to two points", a)
	}
	config := consistent.Config{Hasher: unseeded{}, PartitionCount: 271, ReplicationFactor: 20, Load: 1.25}
	up := pods(12)
	down := slices.Clone(up)
	slices.Reverse(down)
	if n := disagreements(consistent.New(bare(up), config), consistent.New(bare(down), config), 271); n != 0 {
		t.Errorf("two orders of joins disagree on %d of 271 partitions, want 0", n)
	}
}

// TestStillOneOwnerPerPoint: when two points are equal, the member added last owns
// them, so the order matters. When that member leaves, the point has no owner and
// the library panics. New rejects such a set.
func TestStillOneOwnerPerPoint(t *testing.T) {
	config := consistent.Config{Hasher: coarse{}, PartitionCount: 271, ReplicationFactor: 20, Load: 1.25}
	up := pods(12)
	down := slices.Clone(up)
	slices.Reverse(down)
	c := consistent.New(bare(up), config)
	if n := disagreements(c, consistent.New(bare(down), config), 271); n == 0 {
		t.Error("two orders of joins agree although points are equal: the library has changed")
	}
	wantPanic(t, "invalid memory address", func() { c.Remove("limiter-11") })
}

// TestStillDuplicates: removing a name that was given twice leaves points
// without an owner. New passes each name once.
func TestStillDuplicates(t *testing.T) {
	c := newLibrary([]string{"a", "a", "b"})
	wantPanic(t, "invalid memory address", func() { c.Remove("a") })
}

// TestFixedCapacityArithmetic: up to v0.10.0 more members than partitions, a load of
// 1.0 with a remainder, and a single member with one point all panicked.
func TestFixedCapacityArithmetic(t *testing.T) {
	for name, c := range map[string]struct {
		members int
		config  consistent.Config
	}{
		"more members than partitions": {300, consistent.Config{PartitionCount: 271, ReplicationFactor: 20, Load: 1.25}},
		"load of 1.0":                  {7, consistent.Config{PartitionCount: 271, ReplicationFactor: 20, Load: 1}},
		"one member, one point":        {1, consistent.Config{PartitionCount: 271, ReplicationFactor: 1, Load: 1.25}},
	} {
		c.config.Hasher = unseeded{}
		if owner := consistent.New(bare(pods(c.members)), c.config).GetPartitionOwner(270); owner == nil {
			t.Errorf("%s: the last partition has no owner", name)
		}
	}
}

// TestStillCapacityRunsOut: a load below 1 still panics. Ours is a constant.
func TestStillCapacityRunsOut(t *testing.T) {
	wantPanic(t, "not enough room", func() {
		consistent.New(bare(pods(3)), consistent.Config{Hasher: unseeded{}, Load: 0.9})
	})
	wantPanic(t, "Hasher cannot be nil", func() { consistent.New(nil, consistent.Config{}) })
}

// TestStillAddKeepsTheOldValue: an instance keeps the first value of a name, so an
// address in it would be stale. This package stores names only.
func TestStillAddKeepsTheOldValue(t *testing.T) {
	c := newLibrary(nil)
	first, second := &addressed{"a", "10.0.0.1"}, &addressed{"a", "10.0.0.2"}
	c.Add(first)
	c.Add(second)
	if got := c.GetPartitionOwner(0).(*addressed).address; got != first.address {
		t.Errorf("after a second Add the address is %s: the library has changed", got)
	}
}

// TestStillClosestIsNotTheHeir: the library.s backup is the next member by the
// hash of names, which is rarely the next owner of the partition.
func TestStillClosestIsNotTheHeir(t *testing.T) {
	for _, n := range []int{3, 5, 10, 20} {
		members := pods(n)
		c := newLibrary(members)
		hits := 0
		for _, left := range members {
			next := newLibrary(without(members, left))
			for p := range ring.Partitions {
				if c.GetPartitionOwner(p).String() != left {
					continue
				}
				closest, err := c.GetClosestNForPartition(p, 2)
				if err != nil {
					t.Fatal(err)
				}
				if closest[1] == next.GetPartitionOwner(p) {
					hits++
				}
			}
		}
		share := float64(hits) / ring.Partitions
		t.Logf("%2d members: the closest is the heir for %2.0f %% of partitions", n, 100*share)
		if share > 0.6 {
			t.Errorf("%d members: the closest is the heir for %.0f %% of partitions: the library has changed", n, 100*share)
		}
	}
}

// coarse is a hash with so few values that points collide.
type coarse struct{}

func (coarse) Sum64(b []byte) uint64 { return xxhash.Sum64(b) % 256 }

type addressed struct{ name, address string }

func (a *addressed) String() string { return a.name }

// disagreements counts partitions with different owners.
func disagreements(a, b *consistent.Consistent, partitions int) (n int) {
	for p := range partitions {
		if a.GetPartitionOwner(p) != b.GetPartitionOwner(p) {
			n++
		}
	}
	return n
}

// wantPanic fails unless call panics with a message.
func wantPanic(t *testing.T, message string, call func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), message) {
			t.Errorf("panic = %v, want %q: the library has changed", r, message)
		}
	}()
	call()
}
