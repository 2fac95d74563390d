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
// block are; then the block is merged into the one before. The first mark needs no block
// as long as it is the only one, so a key with one reservation at a time has none.
type timeline struct {
	base   wide  // lowest z before the first mark
	waste  wide  // refill wasted since the timeline was reset
	low    wide  // lowest z since the only mark, while there is no block
	next   int64 // the next mark
	live   int   // marks that are not dead
	blocks []block
}

const blockSize = 8

type block struct {
	seq     int64 // its marks are seq*blockSize + 0..n-1
	n       uint8
	dead    uint8 // a bit per mark
	pending wide  // to be added to each low
	lowest  wide  // of low, pending included
	low     [blockSize]wide
}

// reset makes t the empty timeline of a bucket.
func (t *timeline) reset() {
	*t = timeline{blocks: t.blocks[:0], base: maxWide}
}

// observe records the current level. It must be called after refill and before a charge.
func (t *timeline) observe(used wide) {
	z := used.sub(t.waste)
	switch n := len(t.blocks); {
	case n > 0:
		t.blocks[n-1].lower(z)
	case t.live > 0:
		t.low = minWide(t.low, z)
	default:
		t.base = minWide(t.base, z)
	}
}

// firstBlock returns the block of the only mark, if it has none yet.
func (t *timeline) firstBlock() block {
	return block{seq: (t.next - 1) / blockSize, n: 1, lowest: t.low, low: [blockSize]wide{t.low}}
}

// lower lowers the last segment of the block to z.
func (b *block) lower(z wide) {
	last := &b.low[b.n-1]
	if last.hi == maxWide.hi || z.sub(b.pending).less(*last) {
		*last = z.sub(b.pending)
	}
	b.lowest = minWide(b.lowest, z)
}

// drain lowers used by refill and adds what is wasted to t.waste.
func (t *timeline) drain(used, refill wide) wide {
	if used.less(refill) {
		t.waste = t.waste.add(refill.sub(used))
		used = wide{}
	} else {
		used = used.sub(refill)
	}
	t.observe(used)
	return used
}

// addMark returns the mark of a charge that is about to be made at level used.
func (t *timeline) addMark(used wide) int64 {
	t.observe(used)
	if len(t.blocks) == 0 {
		if t.live == 0 {
			t.low, t.live, t.next = maxWide, 1, t.next+1
			return t.next - 1
		}
		t.blocks = append(t.blocks, t.firstBlock())
	}
	seq := t.next / blockSize
	if n := len(t.blocks); n == 0 || t.blocks[n-1].seq != seq {
		t.blocks = append(t.blocks, block{seq: seq, lowest: maxWide})
	}
	b := &t.blocks[len(t.blocks)-1]
	b.low[b.n] = maxWide
	b.n++
	t.live++
	t.next++
	return t.next - 1
}

// shift changes the charge at mark by delta and returns the new level.
func (t *timeline) shift(mark int64, delta, used wide) wide {
	t.observe(used)
	z := used.sub(t.waste).add(delta)
	lowest := t.base
	if len(t.blocks) == 0 {
		t.low = t.low.add(delta)
		lowest = minWide(lowest, t.low)
	} else {
		t.shiftBlocks(mark, delta)
		for i := range t.blocks {
			lowest = minWide(lowest, t.blocks[i].lowest)
		}
	}
	t.waste = wide{}
	if lowest.negative() {
		t.waste = lowest.neg()
	}
	return z.add(t.waste)
}

// shiftBlocks adds delta to all segments from a mark on.
func (t *timeline) shiftBlocks(mark int64, delta wide) {
	i := t.find(mark)
	b := &t.blocks[i]
	b.lowest = maxWide
	first := int(mark % blockSize)
	for j := range b.low[:b.n] {
		if j >= first {
			b.low[j] = b.low[j].add(delta)
		}
		b.lowest = minWide(b.lowest, b.low[j].add(b.pending))
	}
	for j := i + 1; j < len(t.blocks); j++ {
		t.blocks[j].pending = t.blocks[j].pending.add(delta)
		t.blocks[j].lowest = t.blocks[j].lowest.add(delta)
	}
}

// removeMark removes the mark of a charge that is final.
func (t *timeline) removeMark(mark int64) {
	if t.live--; len(t.blocks) == 0 {
		return // it was the only one
	}
	i := t.find(mark)
	b := &t.blocks[i]
	b.dead |= 1 << (mark % blockSize)
	if b.dead != 1<<b.n-1 {
		return
	}
	if i == 0 {
		t.base = minWide(t.base, b.lowest)
	} else if b.lowest != maxWide {
		t.blocks[i-1].lower(b.lowest)
	}
	if i == len(t.blocks)-1 {
		t.next = (b.seq + 1) * blockSize
	}
	t.blocks = append(t.blocks[:i], t.blocks[i+1:]...)
}

// find returns the position of the block of a live mark.
func (t *timeline) find(mark int64) int {
	lo, hi := 0, len(t.blocks)-1
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if t.blocks[mid].seq <= mark/blockSize {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

// rescale applies f to every level, when the window of the bucket changes.
func (t *timeline) rescale(f func(wide) wide) {
	if t.base.hi != maxWide.hi {
		t.base = f(t.base)
	}
	t.waste = f(t.waste)
	if t.low.hi != maxWide.hi {
		t.low = f(t.low)
	}
	for i := range t.blocks {
		b := &t.blocks[i]
		for j := range b.low[:b.n] {
			b.low[j] = f(b.low[j].add(b.pending))
		}
		b.pending, b.lowest = wide{}, f(b.lowest)
	}
}
