// SPDX-License-Identifier: Apache-2.0

// Package growmap has a map for names that a program learns while it runs, such as the labels
// of its metrics: few, soon all known, and never forgotten.
package growmap

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Map is a map to which keys are added and none is removed. Reading takes no lock and allocates
// nothing. Adding copies the map, so it is for few keys. The zero value is empty. It is safe for
// concurrent use.
type Map[K comparable, V any] struct {
	entries atomic.Pointer[map[K]V] // replaced, never edited
	grow    sync.Mutex              // held to replace entries
}

// Get returns the value of a key, and whether it is there.
func (m *Map[K, V]) Get(key K) (V, bool) {
	v, ok := m.All()[key]
	return v, ok
}

// All returns the entries, which must not be changed.
func (m *Map[K, V]) All() map[K]V {
	if entries := m.entries.Load(); entries != nil {
		return *entries
	}
	return nil
}

// Add returns the value of a key. If there is none, it adds what entry returns: the value, and
// a key that is equal and may be kept.
func (m *Map[K, V]) Add(key K, entry func() (K, V)) V {
	m.grow.Lock()
	defer m.grow.Unlock()
	if v, ok := m.Get(key); ok {
		return v
	}
	kept, v := entry()
	grown := make(map[K]V, len(m.All())+1)
	maps.Copy(grown, m.All())
	grown[kept] = v
	m.entries.Store(&grown)
	return v
}
