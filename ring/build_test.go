// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"slices"
	"strings"
	"testing"

	"github.com/buraksezer/consistent"
	"pgregory.net/rapid"
)

// A hashFunc is a circle for tests.
type hashFunc func([]byte) uint64

// Sum64 implements consistent.Hasher.
func (f hashFunc) Sum64(b []byte) uint64 { return f(b) }

// TestFailuresAreErrors: whatever the library does, New returns no table and
// says why.
func TestFailuresAreErrors(t *testing.T) {
	members := []string{"a", "b", "c"}
	const own = 3*replicas + Partitions // hashes that newCircle takes
	tests := []struct {
		name, want string
		hash       func(calls int, sum uint64) uint64
	}{
		{"panic", "out of order", func(calls int, sum uint64) uint64 {
			if calls > own {
				panic("out of order")
			}
			return sum
		}},
		{"another circle", "does not place partitions the way", func(calls int, sum uint64) uint64 {
			if calls > own {
				return sum * 3
			}
			return sum
		}},
		{"a shared point", "meet in a point", func(_ int, sum uint64) uint64 { return sum % 4096 }},
	}
	for _, test := range tests {
		calls := 0
		table, err := build(members, hashFunc(func(b []byte) uint64 {
			calls++
			return test.hash(calls, circleHash{}.Sum64(b))
		}))
		if err == nil || table != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: build = %v, %v, want only an error with %q", test.name, table, err, test.want)
		}
	}
}

// TestHistoriesOfTheLibrary takes one instance of the library through joins and
// leaves, and compares it with a fresh table of who is left. New never keeps an
// instance; this says that one who does would see the same owners.
func TestHistoriesOfTheLibrary(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := consistent.New(nil, libraryConfig(circleHash{}))
		var members []string
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			m := rapid.SampledFrom([]string{"limiter-1", "limiter-11", "limiter-111", "1", "11", "1/", "é", "e"}).Draw(rt, "member")
			if i := slices.Index(members, m); i >= 0 {
				c.Remove(node(m).String())
				members = slices.Delete(members, i, i+1)
			} else {
				c.Add(node(m))
				members = append(members, m)
			}
		}
		table, err := New(members)
		if err != nil {
			rt.Fatal(err)
		}
		for p := range Partitions {
			got := table.Owner(p)
			if m := c.GetPartitionOwner(p); m == nil && got != "" || m != nil && got != string(m.(node)) {
				rt.Fatalf("Owner(%d) = %q, but the library came to %v", p, got, m)
			}
		}
	})
}
