// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"math/bits"
	"slices"
)

// item is an element to sort: its key and its index.
type item struct {
	key uint64
	i   int32
}

// sorter sorts items by key with a radix sort. It reuses its memory.
type sorter struct {
	items, spare []item
}

const digitBits = 11 // digits of the radix sort

// reset empties the sorter and makes room for n items.
func (s *sorter) reset(n int) { s.items = slices.Grow(s.items[:0], n) }

// add adds an item with a time as its key.
func (s *sorter) add(time int64, i int32) {
	s.items = append(s.items, item{uint64(time) ^ 1<<63, i})
}

// order appends the indexes of the items to out, sorted by key. The sort is stable.
func (s *sorter) order(out []int32) []int32 {
	s.sort(0)
	out = slices.Grow(out, len(s.items))
	for i := range s.items {
		out = append(out, s.items[i].i)
	}
	return out
}

// sort sorts by the bits of the keys from lowest up.
func (s *sorter) sort(lowest int) {
	list := s.items
	if len(list) < 2 {
		return
	}
	least, differ, sorted := list[0].key, uint64(0), true
	for i := 1; i < len(list); i++ {
		least = min(least, list[i].key)
		sorted = sorted && list[i-1].key <= list[i].key
	}
	if sorted {
		return
	}
	if len(list) < 256 {
		slices.SortStableFunc(list, func(a, b item) int { return cmp.Compare(a.key, b.key) })
		return
	}
	least &^= 1<<lowest - 1
	for i := range list {
		differ |= list[i].key - least
	}
	s.spare = slices.Grow(s.spare[:0], len(list))[:len(list)]
	other := s.spare
	for shift := lowest; shift < bits.Len64(differ); shift += digitBits {
		var at [1 << digitBits]int32
		for i := range list {
			at[(list[i].key-least)>>shift&(1<<digitBits-1)]++
		}
		sum := int32(0)
		for i, n := range at {
			at[i], sum = sum, sum+n
		}
		for i := range list {
			to := &at[(list[i].key-least)>>shift&(1<<digitBits-1)]
			other[*to] = list[i]
			*to++
		}
		list, other = other, list
	}
	s.items, s.spare = list, other
}

// Values of groups for an item without another of its key, and for an item that is not
// the first of its group.
const (
	single   = -1
	notFirst = -2
)

// groups sorts items so that those with the same key are adjacent, in their original
// order. For the first item of a group it returns where the group begins.
func (s *sorter) groups(begins []int32) []int32 {
	const top = 3 * digitBits // enough bits to separate almost all keys
	s.sort(64 - top)
	list := s.items
	for from, to := 0, 0; from < len(list); from = to {
		prefix, mixed := list[from].key>>(64-top), false
		for to = from + 1; to < len(list) && list[to].key>>(64-top) == prefix; to++ {
			mixed = mixed || list[to].key != list[from].key
		}
		run := list[from:to]
		if mixed {
			slices.SortStableFunc(run, func(a, b item) int { return cmp.Compare(a.key, b.key) })
		}
		for i := range run {
			switch {
			case i > 0 && run[i-1].key == run[i].key:
				begins[run[i].i] = notFirst
			case i+1 < len(run) && run[i+1].key == run[i].key:
				begins[run[i].i] = int32(from + i)
			default:
				begins[run[i].i] = single
			}
		}
	}
	return begins
}

// reordered returns list in the order of the items.
func reordered[T any](s *sorter, list []T) []T {
	s.sort(0)
	for i := range s.items {
		if s.items[i].i != int32(i) {
			out := make([]T, len(list))
			for to := range s.items {
				out[to] = list[s.items[to].i]
			}
			return out
		}
	}
	return list
}
