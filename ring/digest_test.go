// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/buraksezer/consistent"
	"pgregory.net/rapid"
)

// TestGolden pins the wire format: every release and every process must compute
// these numbers, or a rolling upgrade splits the cluster. A change here is a
// change of the layout, and belongs under its own heading in CHANGELOG.md.
func TestGolden(t *testing.T) {
	if got, want := Layout(), uint64(0x2b6c4eead1dea1cb); got != want {
		t.Errorf("Layout() = %#016x, want %#016x", got, want)
	}
	table, err := New([]string{"limiter-0", "limiter-1", "limiter-2"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := table.Digest(), uint64(0x0bd51e84b35d815b); got != want {
		t.Errorf("Digest() = %#016x, want %#016x", got, want)
	}
	for key, want := range map[string]struct {
		partition   int
		owner, heir string
	}{
		"acme":       {3084, "limiter-0", "limiter-2"},
		"acme/alice": {3084, "limiter-0", "limiter-2"},
		"globex/bob": {428, "limiter-1", "limiter-2"},
		"":           {2457, "limiter-2", "limiter-1"},
	} {
		p := PartitionOf(key)
		if p != want.partition || table.Owner(p) != want.owner || table.Heir(p) != want.heir {
			t.Errorf("key %q is in partition %d of %s, then %s, want %+v", key, p, table.Owner(p), table.Heir(p), want)
		}
	}
}

// TestLayoutNamesTheLibrary keeps the digest of the layout in step with go.mod.
func TestLayoutNamesTheLibrary(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "\t"+library+"\n") && !strings.Contains(string(mod), "\t"+library+" //") {
		t.Errorf("go.mod does not require %s: the layout names another version than the one in use", library)
	}
}

// TestDigestCoversTheTable changes one thing at a time.
func TestDigestCoversTheTable(t *testing.T) {
	table, err := New([]string{"ab", "c", "d"})
	if err != nil {
		t.Fatal(err)
	}
	if got := table.computeDigest(); got != table.digest {
		t.Fatalf("computeDigest() = %#x, want the digest %#x", got, table.digest)
	}
	rapid.Check(t, func(rt *rapid.T) {
		p := rapid.IntRange(0, Partitions-1).Draw(rt, "partition")
		for name, change := range map[string]func(*Table){
			"owner":           func(c *Table) { c.owners[p] = c.owners[p]%3 + 1 },
			"heir":            func(c *Table) { c.heirs[p] = c.heirs[p]%3 + 1 },
			"name":            func(c *Table) { c.members[1] = "cc" },
			"where names end": func(c *Table) { c.members[0], c.members[1] = "a", "bc" },
			"one more":        func(c *Table) { c.members = append(c.members, "") },
			"one less":        func(c *Table) { c.members = c.members[:2] },
		} {
			changed := *table
			changed.members = slices.Clone(table.members)
			change(&changed)
			if changed.computeDigest() == table.digest {
				rt.Errorf("digest does not depend on %s at %d", name, p)
			}
		}
	})
}

// TestCapacityIsTheLibrarys for small clusters, and where rounding might differ.
func TestCapacityIsTheLibrarys(t *testing.T) {
	config := libraryConfig(circleHash{})
	config.ReplicationFactor = 1
	for n := 1; n <= MaxMembers; n++ {
		if n > 33 && n%67 != 0 && n < MaxMembers-1 {
			continue
		}
		nodes := make([]consistent.Member, n)
		for i := range nodes {
			nodes[i] = node(strings.Repeat("x", i+1))
		}
		if got, want := capacity(n), int(consistent.New(nodes, config).AverageLoad()); got != want {
			t.Errorf("capacity(%d) = %d, want %d", n, got, want)
		}
	}
}
