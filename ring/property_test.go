// SPDX-License-Identifier: Apache-2.0

package ring_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/ring"
)

// names draws usual and unusual names of members.
var names = rapid.OneOf(
	rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("limiter-%d", rapid.IntRange(0, 120).Draw(t, "pod")) }),
	rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("10.0.0.%d", rapid.IntRange(1, 255).Draw(t, "ip")) }),
	rapid.StringMatching(`[0-9]{1,3}[:/]?[0-9]{0,3}`), // like a point: index, separator, index
	rapid.StringN(1, 20, -1),
	rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 8), func(b []byte) string { return string(b) }), // not UTF-8
	rapid.Map(rapid.IntRange(0, 3), func(n int) string { return strings.Repeat("long", 250) + fmt.Sprint(n) }),
)

// sets draws up to max different names, in any order.
func sets(least, most int) *rapid.Generator[[]string] {
	return rapid.SliceOfNDistinct(names, least, most, rapid.ID[string])
}

// content is all that a caller can see of a table.
type content struct {
	members       string
	digest        uint64
	owners, heirs [ring.Partitions]string
}

func contentOf(table *ring.Table) *content {
	c := &content{members: fmt.Sprintf("%q", table.Members()), digest: table.Digest()}
	for p := range ring.Partitions {
		c.owners[p], c.heirs[p] = table.Owner(p), table.Heir(p)
	}
	return c
}

// TestOnlyTheSetCounts builds tables from the same set in another order and with
// duplicates. So the history of joins and leaves does not matter, because a
// table depends on nothing but its set of members.
func TestOnlyTheSetCounts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		set := sets(1, 12).Draw(rt, "set")
		again := append(slices.Clone(set), rapid.SliceOfN(rapid.SampledFrom(set), 0, 5).Draw(rt, "duplicates")...)
		again = rapid.Permutation(again).Draw(rt, "order")
		if *contentOf(mustNew(rt, again...)) != *contentOf(mustNew(rt, set...)) {
			rt.Errorf("New(%q) differs from New(%q)", again, set)
		}
	})
}

// TestNewLeavesItsArgumentAlone guards callers that keep their list.
func TestNewLeavesItsArgumentAlone(t *testing.T) {
	members := []string{"c", "a", "b", "a"}
	table := mustNew(t, members...)
	if want := []string{"c", "a", "b", "a"}; !slices.Equal(members, want) {
		t.Errorf("New left its argument as %q, want %q", members, want)
	}
	members[0] = "z"
	if got, want := table.Members(), []string{"a", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("Members() = %q, want %q", got, want)
	}
}

// TestTablesAreComplete holds for every set: each partition has an owner and an
// heir that are two members, and no member owns more than 1.1 times the mean,
// rounded up.
func TestTablesAreComplete(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		checkComplete(rt, mustNew(rt, sets(1, 40).Draw(rt, "set")...))
	})
}

// TestNumbersOfMembers checks larger and too large sets.
func TestNumbersOfMembers(t *testing.T) {
	sizes := []int{1, 2, 3, 4, 5, 7, 11, 12, 64, 111}
	if !testing.Short() {
		sizes = append(sizes, ring.MaxMembers)
	}
	for _, n := range sizes {
		checkComplete(t, mustNew(t, pods(n)...))
	}
	for _, n := range []int{ring.MaxMembers + 1, ring.Partitions, 2 * ring.Partitions} {
		if table, err := ring.New(pods(n)); err == nil || table != nil {
			t.Errorf("New(%d members) = %v, %v, want only an error", n, table, err)
		}
	}
	many := slices.Concat(pods(3), slices.Repeat([]string{"limiter-1"}, ring.Partitions))
	if got := mustNew(t, many...).Digest(); got != mustNew(t, pods(3)...).Digest() {
		t.Errorf("3 members named %d times have the digest %016x, want that of 3", len(many), got)
	}
}

func checkComplete(t rapid.TB, table *ring.Table) {
	t.Helper()
	members := table.Members()
	limit := (ring.Partitions*11 + 10*len(members) - 1) / (10 * len(members))
	for p := range ring.Partitions {
		owner, heir := table.Owner(p), table.Heir(p)
		if i := table.OwnerIndex(p); i < 0 || members[i] != owner {
			t.Fatalf("%d members: OwnerIndex(%d) = %d, want that of %q", len(members), p, i, owner)
		}
		if len(members) == 1 && heir != "" || len(members) > 1 && (heir == owner || !slices.Contains(members, heir)) {
			t.Fatalf("%d members: Heir(%d) = %q beside the owner %q, want another member if there is one", len(members), p, heir, owner)
		}
	}
	whole := 0
	for _, m := range members {
		owned := table.Owned(m)
		if len(owned) > limit {
			t.Errorf("%d members: %q owns %d, want at most %d", len(members), m, len(owned), limit)
		}
		for _, p := range owned {
			if table.Owner(p) != m {
				t.Errorf("%d members: Owned(%q) has %d, which is %q's", len(members), m, p, table.Owner(p))
			}
		}
		whole += len(owned)
	}
	if whole != ring.Partitions {
		t.Errorf("%d members own %d partitions, want %d", len(members), whole, ring.Partitions)
	}
}

// TestHeirIsTheNextOwner removes members and compares the heirs of their
// partitions with the owners that the library then computes.
func TestHeirIsTheNextOwner(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		members := sets(1, 24).Draw(rt, "set")
		checkHeirs(rt, mustNew(rt, members...), rapid.SampledFrom(members).Draw(rt, "left"))
	})
	for _, n := range []int{2, 3, 5, 10, 30} {
		table := mustNew(t, pods(n)...)
		for _, left := range table.Members() {
			checkHeirs(t, table, left)
		}
	}
	if !testing.Short() {
		checkHeirs(t, mustNew(t, pods(100)...), "limiter-11")
	}
}

func checkHeirs(t rapid.TB, table *ring.Table, left string) {
	t.Helper()
	next := mustNew(t, without(table.Members(), left)...)
	for _, p := range table.Owned(left) {
		if got, want := table.Heir(p), next.Owner(p); got != want {
			t.Fatalf("%d members: Heir(%d) = %q, but without %q the owner is %q", len(table.Members()), p, got, left, want)
		}
	}
}

// TestDiffLeadsFromOneToTheOther for any two tables, nil and empty ones among
// them.
func TestDiffLeadsFromOneToTheOther(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		from, to := mustNew(rt, sets(0, 6).Draw(rt, "from")...), mustNew(rt, sets(0, 6).Draw(rt, "to")...)
		var owners [ring.Partitions]string
		for p := range owners {
			owners[p] = from.Owner(p)
		}
		last := -1
		for _, move := range ring.Diff(from, to) {
			if move.Partition <= last || move.From == move.To || move.From != owners[move.Partition] {
				rt.Fatalf("Diff lists %+v after partition %d, owned by %q", move, last, owners[move.Partition])
			}
			last = move.Partition
			owners[last] = move.To
		}
		for p, owner := range owners {
			if owner != to.Owner(p) {
				rt.Fatalf("after Diff's moves partition %d is owned by %q, want %q", p, owner, to.Owner(p))
			}
		}
	})
	if got := ring.Diff(nil, nil); len(got) != 0 {
		t.Errorf("Diff(nil, nil) lists %d moves, want none", len(got))
	}
	if got := ring.Diff(nil, mustNew(t, "a")); len(got) != ring.Partitions {
		t.Errorf("Diff(nil, one member) lists %d moves, want %d", len(got), ring.Partitions)
	}
}

// TestNoMembers checks tables without members, as before the first view.
func TestNoMembers(t *testing.T) {
	for _, table := range []*ring.Table{{}, mustNew(t)} {
		if len(table.Members()) != 0 || table.Digest() != 0 || len(table.Owned("a")) != 0 {
			t.Errorf("members %q, digest %d, a owns %v, want none", table.Members(), table.Digest(), table.Owned("a"))
		}
		if table.Owner(7) != "" || table.Heir(7) != "" || table.OwnerIndex(7) != -1 {
			t.Errorf("partition 7 has owner %q at %d and heir %q, want none", table.Owner(7), table.OwnerIndex(7), table.Heir(7))
		}
	}
	if table, err := ring.New([]string{"a", ""}); err == nil {
		t.Errorf("New with an empty name = %v, want an error", table)
	}
}

// TestPartitionsMatchLimiter compares the ring with package limiter, which keeps
// the state of each partition.
func TestPartitionsMatchLimiter(t *testing.T) {
	if ring.Partitions != limiter.Partitions {
		t.Fatalf("ring has %d partitions, limiter %d", ring.Partitions, limiter.Partitions)
	}
	rapid.Check(t, func(rt *rapid.T) {
		key := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z]{0,8}(/[a-z0-9]{0,8}){0,4}`)).Draw(rt, "key")
		if got, want := ring.PartitionOf(key), limiter.PartitionOf(key); got != want {
			rt.Errorf("PartitionOf(%q) = %d, but limiter keeps it in %d", key, got, want)
		}
	})
}
