// SPDX-License-Identifier: Apache-2.0

package limiter

import "math"

// idQueue is a queue of entries in the order of their due time. That is the order of
// arrival, because all entries of a queue have the same retention.
type idQueue struct{ head, tail uint32 }

func (p *partition) push(q *idQueue, entryID uint32, due int64) {
	p.entries.at(entryID).due = due
	p.nextDue = min(p.nextDue, due)
	if q.tail == 0 {
		q.head = entryID
	} else {
		p.entries.at(q.tail).next = entryID
	}
	q.tail = entryID
}

func (p *partition) pop(q *idQueue) uint32 {
	entryID := q.head
	entry := p.entries.at(entryID)
	q.head, entry.next = entry.next, 0
	if q.head == 0 {
		q.tail = 0
	}
	return entryID
}

// evictOldestID removes the id that is due first and has no live reservation. It
// returns false if there is none.
func (p *partition) evictOldestID() bool {
	q := &p.checks
	if q.head == 0 || p.ended.head != 0 && p.entries.at(p.ended.head).due < p.entries.at(q.head).due {
		q = &p.ended
	}
	if q.head == 0 {
		return false
	}
	p.removeDue(p.pop(q))
	return true
}

// removeDue removes an entry taken from its queue. The charges of an expired
// reservation become final.
func (p *partition) removeDue(entryID uint32) {
	if entry := p.entries.at(entryID); entry.status == Expired {
		p.finalizeCharges(entry)
	}
	p.deleteEntry(entryID)
}

// maxDue is the most due entries that one call handles, so that no call waits for many
// leases that end together. The sweep and later calls do the rest. Late work frees
// slots and estimates late, but never admits more.
const maxDue = 64

// runDue ends expired leases and removes ids after their retention.
func (p *partition) runDue(now Time) {
	for range maxDue {
		switch {
		case len(p.leaseHeap) > 0 && p.entries.at(p.leaseHeap[0]).due <= now.Mono:
			p.expire(p.leaseHeap[0], now)
		case p.checks.head != 0 && p.entries.at(p.checks.head).due <= now.Mono:
			p.removeDue(p.pop(&p.checks))
		case p.ended.head != 0 && p.entries.at(p.ended.head).due <= now.Mono:
			p.removeDue(p.pop(&p.ended))
		default:
			p.nextDue = p.earliest()
			return
		}
	}
}

// earliest returns when the next entry is due.
func (p *partition) earliest() int64 {
	next := int64(math.MaxInt64)
	if len(p.leaseHeap) > 0 {
		next = p.entries.at(p.leaseHeap[0]).due
	}
	for _, q := range [...]idQueue{p.checks, p.ended} {
		if q.head != 0 {
			next = min(next, p.entries.at(q.head).due)
		}
	}
	return next
}

// heapPush adds an entry to leaseHeap, a binary heap ordered by due. Each entry knows
// its position, so that progress can move it.
func (p *partition) heapPush(entryID uint32) {
	p.nextDue = min(p.nextDue, p.entries.at(entryID).due)
	p.leaseHeap = append(p.leaseHeap, entryID)
	p.heapUp(len(p.leaseHeap) - 1)
}

func (p *partition) heapRemove(entryID uint32) {
	i, last := int(p.entries.at(entryID).heapIndex), len(p.leaseHeap)-1
	moved := p.leaseHeap[last]
	p.leaseHeap = p.leaseHeap[:last]
	if i < last {
		p.leaseHeap[i] = moved
		p.heapFix(i)
	}
}

func (p *partition) heapFix(i int) {
	if !p.heapDown(i) {
		p.heapUp(i)
	}
}

func (p *partition) heapUp(i int) {
	entryID := p.leaseHeap[i]
	due := p.entries.at(entryID).due
	for i > 0 {
		parent := (i - 1) / 2
		entry := p.entries.at(p.leaseHeap[parent])
		if entry.due <= due {
			break
		}
		p.leaseHeap[i], entry.heapIndex = p.leaseHeap[parent], uint32(i)
		i = parent
	}
	p.leaseHeap[i] = entryID
	p.entries.at(entryID).heapIndex = uint32(i)
}

func (p *partition) heapDown(i int) (moved bool) {
	entryID := p.leaseHeap[i]
	due := p.entries.at(entryID).due
	for {
		child := 2*i + 1
		if child >= len(p.leaseHeap) {
			break
		}
		if r := child + 1; r < len(p.leaseHeap) && p.entries.at(p.leaseHeap[r]).due < p.entries.at(p.leaseHeap[child]).due {
			child = r
		}
		entry := p.entries.at(p.leaseHeap[child])
		if entry.due >= due {
			break
		}
		p.leaseHeap[i], entry.heapIndex = p.leaseHeap[child], uint32(i)
		i, moved = child, true
	}
	p.leaseHeap[i] = entryID
	p.entries.at(entryID).heapIndex = uint32(i)
	return moved
}
