// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"slices"
	"strings"
	"testing"

	"github.com/buraksezer/consistent"
	"pgregory.net/rapid"
)

// hashFunc adapts a function to consistent.Hasher.
type hashFunc func([]byte) uint64

// Sum64 implements consistent.Hasher.
func (f hashFunc) Sum64(b []byte) uint64 { return f(b) }

// TestFailuresAreErrors checks that New returns an error, and no table, whatever
// the library does.
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
		{"another circle", "assigns partitions differently", func(calls int, sum uint64) uint64 {
			if calls > own {
				return sum * 3
			}
			return sum
		}},
		{"a shared point", "hash to the same point", func(_ int, sum uint64) uint64 { return sum % 4096 }},
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

// TestHistoriesOfTheLibrary compares an instance of the library after joins and
// leaves with a new table of the remaining members.
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
				rt.Fatalf("Owner(%d) = %q, but the library has %v", p, got, m)
			}
		}
	})
}
