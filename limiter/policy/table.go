// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"maps"
	"math/bits"
	"runtime"
	"slices"
)

type sha256Sum = [sha256.Size]byte

// fanout is the number of branches of a table, and of leaves of a branch. A table of a
// million entries has some 250 in each of its 4,096 leaves.
const fanout = 64

// leafBits is how many bits of a hash say in which leaf an entry is.
const leafBits = 12

// table is an immutable map. A changed copy shares every leaf in which nothing changed,
// so a change takes time in proportion to the entries of one leaf.
//
// Its sums are a Merkle tree: the SHA-256 of each leaf is over its sorted entries, that
// of a branch over those of its leaves, and that of the table over those of its branches.
// Where an entry is depends on its key only, so equal tables have equal sums, whatever
// the order of the changes that led to them, and tables with equal sums are equal as
// long as nobody finds a collision of SHA-256.
//
// The zero value is empty. The entries of a leaf may be read without a lock.
type table[K comparable, V any] struct {
	root  *[fanout]*branch[K, V] // nil: empty
	count int
	sum   sha256Sum // zero: empty
}

type branch[K comparable, V any] struct {
	leaves [fanout]*leaf[K, V] // nil: empty
	sum    sha256Sum
}

type leaf[K comparable, V any] struct {
	entries map[K]V
	sum     sha256Sum
}

// leaf returns the leaf with an index of leafBits bits; nil if it is empty.
func (t *table[K, V]) leaf(index uint32) *leaf[K, V] {
	if t.root == nil {
		return nil
	}
	b := t.root[index/fanout]
	if b == nil {
		return nil
	}
	return b.leaves[index%fanout]
}

// get returns the entry of a key whose leaf has that index.
func (t *table[K, V]) get(index uint32, k K) (v V, ok bool) {
	if l := t.leaf(index); l != nil {
		v, ok = l.entries[k]
	}
	return v, ok
}

// all calls do for every entry, in no order.
func (t *table[K, V]) all(do func(K, V)) {
	for index := range uint32(fanout * fanout) {
		if l := t.leaf(index); l != nil {
			for k, v := range l.entries {
				do(k, v)
			}
		}
	}
}

// different calls do for the entries that differ between two tables. It looks at the
// leaves with different sums only. same compares two values.
func different[K comparable, V any](from, to *table[K, V], same func(from, to V) bool, do func(k K, from, to *V)) {
	if from.root == to.root || from.sum == to.sum {
		return
	}
	for b := range fanout {
		if from.root != nil && to.root != nil && (from.root[b] == to.root[b] || from.root[b] != nil && to.root[b] != nil && from.root[b].sum == to.root[b].sum) {
			continue
		}
		for index := uint32(b * fanout); index < uint32((b+1)*fanout); index++ {
			x, y := from.leaf(index), to.leaf(index)
			if x == y || x != nil && y != nil && x.sum == y.sum {
				continue
			}
			differentLeaves(x, y, same, do)
		}
	}
}

// differentLeaves is different for two leaves, of which one may be nil.
func differentLeaves[K comparable, V any](x, y *leaf[K, V], same func(from, to V) bool, do func(k K, from, to *V)) {
	if x == nil {
		x = &leaf[K, V]{}
	}
	if y == nil {
		y = &leaf[K, V]{}
	}
	for k, v := range x.entries {
		w, ok := y.entries[k]
		if ok && same(v, w) {
			continue
		}
		from, to := new(v), (*V)(nil)
		if ok {
			to = new(w)
		}
		do(k, from, to)
	}
	for k, w := range y.entries {
		if _, ok := x.entries[k]; !ok {
			do(k, nil, new(w))
		}
	}
}

// tableEdit makes a changed copy of a table.
type tableEdit[K comparable, V any] struct {
	table table[K, V]
	index func(K) uint32
	// line appends the canonical form of an entry, which begins with its key, so that the
	// lines of different entries differ.
	line    func(b []byte, k K, v V) []byte
	compare func(a, b K) int
	shared  bool           // the root belongs to the old table
	owned   [fanout]uint64 // by branch, the leaves that belong to the copy
}

func editTable[K comparable, V any](t table[K, V], index func(K) uint32, compare func(a, b K) int, line func(b []byte, k K, v V) []byte) *tableEdit[K, V] {
	return &tableEdit[K, V]{table: t, index: index, compare: compare, line: line, shared: true}
}

func (e *tableEdit[K, V]) get(k K) (V, bool) { return e.table.get(e.index(k), k) }

// own returns a leaf that may be changed, with its index.
func (e *tableEdit[K, V]) own(index uint32) *leaf[K, V] {
	t := &e.table
	b, i := index/fanout, index%fanout
	if e.owned[b]&(1<<i) != 0 {
		return t.root[b].leaves[i]
	}
	if t.root == nil || e.shared {
		root := &[fanout]*branch[K, V]{}
		if t.root != nil {
			*root = *t.root
		}
		t.root, e.shared = root, false
	}
	if e.owned[b] == 0 {
		copied := &branch[K, V]{}
		if t.root[b] != nil {
			*copied = *t.root[b]
		}
		t.root[b] = copied
	}
	e.owned[b] |= 1 << i
	l := &leaf[K, V]{}
	if old := t.root[b].leaves[i]; old != nil {
		l.entries = maps.Clone(old.entries)
	} else {
		l.entries = map[K]V{}
	}
	t.root[b].leaves[i] = l
	return l
}

func (e *tableEdit[K, V]) set(k K, v V) {
	l := e.own(e.index(k))
	before := len(l.entries)
	l.entries[k] = v
	e.table.count += len(l.entries) - before
}

// remove removes an entry, and reports whether it was there.
func (e *tableEdit[K, V]) remove(k K) bool {
	if _, ok := e.get(k); !ok {
		return false
	}
	delete(e.own(e.index(k)).entries, k)
	e.table.count--
	return true
}

// done returns the changed table, with its sums. The edit must not be used afterwards.
func (e *tableEdit[K, V]) done() table[K, V] {
	t := e.table
	if t.root == nil || e.shared {
		return t // nothing changed
	}
	var keys []K
	var lines []byte
	for b := range t.root {
		for dirty := e.owned[b]; dirty != 0; dirty &= dirty - 1 {
			i := bits.TrailingZeros64(dirty)
			l := t.root[b].leaves[i]
			if len(l.entries) == 0 {
				t.root[b].leaves[i] = nil
				continue
			}
			keys, lines = keys[:0], lines[:0]
			for k := range l.entries {
				keys = append(keys, k)
			}
			slices.SortFunc(keys, e.compare)
			for _, k := range keys {
				lines = e.line(lines, k, l.entries[k])
			}
			l.sum = sha256.Sum256(lines)
			runtime.Gosched() // there may be thousands, and calls to serve
		}
		if e.owned[b] == 0 {
			continue
		}
		lines = lines[:0]
		for i, l := range t.root[b].leaves {
			if l != nil {
				lines = append(append(lines, byte(i)), l.sum[:]...)
			}
		}
		if t.root[b].sum = sha256.Sum256(lines); len(lines) == 0 {
			t.root[b] = nil
		}
	}
	lines = lines[:0]
	for b, branch := range t.root {
		if branch != nil {
			lines = append(append(lines, byte(b)), branch.sum[:]...)
		}
	}
	if t.sum = sha256.Sum256(lines); len(lines) == 0 {
		return table[K, V]{}
	}
	return t
}
