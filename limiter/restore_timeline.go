// SPDX-License-Identifier: Apache-2.0

package limiter

// leastBlock is the length of the shortest block in bytes: three numbers and one low.
const leastBlock = 12

// timeline reads a timeline. One of a single mark takes no memory of its own.
func (d *restorer) timeline(t *timeline) {
	n := d.count("blocks")
	if n == 0 || d.err != nil {
		return
	}
	var read marks
	m := &read
	m.base, m.waste, m.next = d.wide(), d.wide(), int64(d.upTo(1<<62, "mark"))
	for i := range n {
		b := block{seq: int64(d.upTo(1<<59, "block")), n: uint8(d.upTo(blockSize, "marks")), dead: uint8(d.upTo(255, "dead")), lowest: maxWide}
		for j := range int(b.n) {
			b.low[j] = d.wide()
			b.lowest = minWide(b.lowest, b.low[j])
			if b.dead>>j&1 == 0 {
				t.live++
			}
		}
		if len(m.blocks) > 0 && b.seq <= m.blocks[len(m.blocks)-1].seq {
			d.fail("blocks of a timeline are out of order")
			return
		}
		if full := i < n-1 || m.next%blockSize == 0; !b.valid(m.next, full) {
			d.fail("marks of block %d are invalid before mark %d", b.seq, m.next)
			return
		}
		if n == 1 && b.isFirst(m) {
			t.low = b.low[0]
			return
		}
		if m.blocks == nil {
			m.blocks = make([]block, 0, min(n, len(d.buf)/leastBlock+1))
		}
		m.blocks = append(m.blocks, b)
	}
	t.more, t.many = &marks{m.base, m.waste, m.next, m.blocks}, true
}

// isFirst reports whether a block and marks are those that makeMany makes of a timeline of
// one mark.
func (b *block) isFirst(m *marks) bool {
	return m.next == firstMark+1 && b.seq == firstMark/blockSize && b.n == 1 && m.base == wide{} && m.waste == wasteOf(b.low[0])
}

// valid reports whether a block may belong to a timeline whose next mark is next. It
// must have a live mark, no dead bits beyond its marks, and be full unless the next
// mark is to be added to it.
func (b *block) valid(next int64, full bool) bool {
	end := b.seq*blockSize + int64(b.n)
	if full {
		return b.n == blockSize && b.dead != 1<<blockSize-1 && end <= next
	}
	return b.n > 0 && b.dead < 1<<b.n-1 && end == next
}

// hasMark reports whether mark is live. t may be nil.
func (t *timeline) hasMark(mark int64) bool {
	if t == nil || !t.many {
		return t != nil && t.live > 0 && mark == firstMark
	}
	return t.more.has(mark)
}

func (m *marks) has(mark int64) bool {
	if mark < 0 || mark >= m.next {
		return false
	}
	b := &m.blocks[m.find(mark)]
	bit := mark % blockSize
	return b.seq == mark/blockSize && bit < int64(b.n) && b.dead>>bit&1 == 0
}
