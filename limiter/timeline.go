// SPDX-License-Identifier: Apache-2.0

package limiter

// A timeline lets an open reservation change an earlier charge to a token bucket
// exactly. Whatever the order of settles, and however often the bucket was full in
// between, the level becomes what charging the real usage at reserve time would have
// left.
//
// The used level behaves like the workload of a queue: charges raise it, refill drains
// it, and refill of an empty level is wasted. Let z = used - waste, the level without
// the floor at zero. By Lindley's recursion, at time t
//
//	waste(t) = max(0, -lowest z up to t)
//
// and changing a charge at time s by d adds d to z from s on, and changes nothing else.
// The timeline therefore has a mark at each charge of an open reservation and keeps
// the lowest z of each segment between two marks. A change adds d to all segments from
// its mark on and computes waste and used again.
//
// Segments are stored in blocks of eight with a pending addition each, so that a change
// takes eight steps and one per block. A removed mark is dead until all marks of its
// block are; then the block is merged into the one before.
//
// As long as the first mark is the only one, there are no blocks: a key with one reservation
// at a time needs no more than its lowest z. No level before the mark matters then, since
// none was below 0, and so the waste is what the lowest z is below 0.
type timeline struct {
	low  wide // lowest z since the first mark, while there is no other
	more *marks
	live uint32 // marks that are not dead
	many bool   // there was more than one mark, and more has them
}

// marks are the marks of a timeline that has had more than one.
type marks struct {
	base   wide  // lowest z before the first block's first mark, or 0 if that is more
	waste  wide  // refill wasted since the timeline was reset
	next   int64 // the next mark
	blocks []block
}

const (
	blockSize = 8
	firstMark = 0
)

type block struct {
	seq     int64 // its marks are seq*blockSize + 0..n-1
	n       uint8
	dead    uint8 // a bit per mark
	pending wide  // to be added to each low
	lowest  wide  // of low, pending included
	low     [blockSize]wide
}

// wasteOf returns the refill that was wasted if z was that low.
func wasteOf(lowest wide) wide {
	if lowest.negative() {
		return lowest.neg()
	}
	return wide{}
}

// observe records the current level. It must be called after refill and before a charge.
func (t *timeline) observe(used wide) {
	if t.many {
		t.more.blocks[len(t.more.blocks)-1].lower(used.sub(t.more.waste))
		return
	}
	t.low = minWide(t.low, used.sub(wasteOf(t.low)))
}

// makeMany gives a timeline of one mark a block. It may reuse the memory of earlier ones.
func (t *timeline) makeMany() {
	if t.more == nil {
		t.more = &marks{}
	}
	*t.more = marks{waste: wasteOf(t.low), next: firstMark + 1, blocks: t.more.blocks[:0]}
	t.more.blocks = append(t.more.blocks, block{seq: firstMark / blockSize, n: 1, lowest: t.low, low: [blockSize]wide{t.low}})
	t.many = true
}

// lower lowers the last segment of the block to z.
func (b *block) lower(z wide) {
	last := &b.low[b.n-1]
	if last.hi == maxWide.hi || z.sub(b.pending).less(*last) {
		*last = z.sub(b.pending)
	}
	b.lowest = minWide(b.lowest, z)
}

// drain lowers used by refill and notes what is wasted.
func (t *timeline) drain(used, refill wide) wide {
	wasted := wide{}
	if used.less(refill) {
		wasted, used = refill.sub(used), wide{}
	} else {
		used = used.sub(refill)
	}
	if t.many {
		t.more.waste = t.more.waste.add(wasted)
		t.observe(used)
	} else {
		t.low = minWide(t.low, used.sub(wasteOf(t.low).add(wasted)))
	}
	return used
}

// addMark returns the mark of a charge that is about to be made at level used.
func (t *timeline) addMark(used wide) int64 {
	if t.live == 0 {
		t.low, t.live, t.many = maxWide, 1, false
		return firstMark
	}
	t.observe(used)
	if !t.many {
		t.makeMany()
	}
	m := t.more
	seq := m.next / blockSize
	if n := len(m.blocks); m.blocks[n-1].seq != seq {
		m.blocks = append(m.blocks, block{seq: seq, lowest: maxWide})
	}
	b := &m.blocks[len(m.blocks)-1]
	b.low[b.n] = maxWide
	b.n++
	t.live++
	m.next++
	return m.next - 1
}

// shift changes the charge at mark by delta and returns the new level.
func (t *timeline) shift(mark int64, delta, used wide) wide {
	t.observe(used)
	if !t.many {
		z := used.sub(wasteOf(t.low)).add(delta)
		t.low = t.low.add(delta)
		return z.add(wasteOf(t.low))
	}
	m := t.more
	z := used.sub(m.waste).add(delta)
	m.shiftBlocks(mark, delta)
	lowest := m.base
	for i := range m.blocks {
		lowest = minWide(lowest, m.blocks[i].lowest)
	}
	m.waste = wasteOf(lowest)
	return z.add(m.waste)
}

// shiftBlocks adds delta to all segments from a mark on.
func (m *marks) shiftBlocks(mark int64, delta wide) {
	i := m.find(mark)
	b := &m.blocks[i]
	b.lowest = maxWide
	first := int(mark % blockSize)
	for j := range b.low[:b.n] {
		if j >= first {
			b.low[j] = b.low[j].add(delta)
		}
		b.lowest = minWide(b.lowest, b.low[j].add(b.pending))
	}
	for j := i + 1; j < len(m.blocks); j++ {
		m.blocks[j].pending = m.blocks[j].pending.add(delta)
		m.blocks[j].lowest = m.blocks[j].lowest.add(delta)
	}
}

// removeMark removes the mark of a charge that is final.
func (t *timeline) removeMark(mark int64) {
	if t.live--; !t.many {
		return // it was the only one
	}
	m := t.more
	i := m.find(mark)
	b := &m.blocks[i]
	b.dead |= 1 << (mark % blockSize)
	if b.dead != 1<<b.n-1 {
		return
	}
	if i == 0 {
		m.base = minWide(m.base, b.lowest)
	} else if b.lowest != maxWide {
		m.blocks[i-1].lower(b.lowest)
	}
	if i == len(m.blocks)-1 {
		m.next = (b.seq + 1) * blockSize
	}
	m.blocks = append(m.blocks[:i], m.blocks[i+1:]...)
}

// find returns the position of the block of a live mark.
func (m *marks) find(mark int64) int {
	lo, hi := 0, len(m.blocks)-1
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if m.blocks[mid].seq <= mark/blockSize {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

// rescale applies f to every level, when the window of the bucket changes.
func (t *timeline) rescale(f func(wide) wide) {
	if !t.many {
		if t.low.hi != maxWide.hi {
			t.low = f(t.low)
		}
		return
	}
	m := t.more
	if m.base.hi != maxWide.hi {
		m.base = f(m.base)
	}
	m.waste = f(m.waste)
	for i := range m.blocks {
		b := &m.blocks[i]
		for j := range b.low[:b.n] {
			b.low[j] = f(b.low[j].add(b.pending))
		}
		b.pending, b.lowest = wide{}, f(b.lowest)
	}
}
