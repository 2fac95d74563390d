// SPDX-License-Identifier: Apache-2.0

package line

// heap is a binary heap of numbered items. Items know their position, so that any can be
// moved or removed.
type heap struct {
	items []int32
	less  func(a, b int32) bool
	pos   func(item int32) *int32 // its position, and 1; 0 if it is not in the heap
}

// fix adds an item, or moves it to where it belongs.
func (h *heap) fix(item int32) {
	if *h.pos(item) == 0 {
		h.items = append(h.items, item)
		*h.pos(item) = int32(len(h.items))
	}
	h.up(int(*h.pos(item)) - 1)
	h.down(int(*h.pos(item)) - 1)
}

// remove removes an item, if it is in the heap.
func (h *heap) remove(item int32) {
	i := int(*h.pos(item)) - 1
	if i < 0 {
		return
	}
	last := len(h.items) - 1
	h.swap(i, last)
	h.items = h.items[:last]
	*h.pos(item) = 0
	if i < last {
		h.fix(h.items[i])
	}
}

// first returns the least item, 0 if there is none.
func (h *heap) first() int32 {
	if len(h.items) == 0 {
		return 0
	}
	return h.items[0]
}

func (h *heap) swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	*h.pos(h.items[i]), *h.pos(h.items[j]) = int32(i+1), int32(j+1)
}

func (h *heap) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.less(h.items[i], h.items[parent]) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h *heap) down(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.items); child++ {
			if h.less(h.items[child], h.items[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
