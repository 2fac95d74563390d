// SPDX-License-Identifier: Apache-2.0

package growmap

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

func TestMap(t *testing.T) {
	var m Map[string, *int]
	if _, ok := m.Get("a"); ok || len(m.All()) != 0 {
		t.Fatal("the zero value is not empty")
	}
	var made atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 100 {
				key := strconv.Itoa(i)
				got := m.Add(key, func() (string, *int) {
					made.Add(1)
					return key, &i
				})
				if again, ok := m.Get(key); !ok || again != got || *got != i {
					t.Errorf("%s is %v, want what Add returned, %v", key, again, got)
				}
			}
		})
	}
	group.Wait()
	if len(m.All()) != 100 || made.Load() != 100 {
		t.Errorf("%d keys, made %d times, want 100", len(m.All()), made.Load())
	}
}

// What a reader holds does not change.
func TestAllIsASnapshot(t *testing.T) {
	var m Map[int, int]
	m.Add(1, func() (int, int) { return 1, 1 })
	before := m.All()
	m.Add(2, func() (int, int) { return 2, 2 })
	if len(before) != 1 || len(m.All()) != 2 {
		t.Errorf("%v and then %v, want one key and two", before, m.All())
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	type name struct{ a, b string }
	var m Map[name, *int]
	m.Add(name{"x", "y"}, func() (name, *int) { return name{"x", "y"}, new(int) })
	if n := testing.AllocsPerRun(100, func() { m.Get(name{"x", "y"}) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
