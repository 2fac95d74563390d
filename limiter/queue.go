// SPDX-License-Identifier: Apache-2.0

package limiter

import "math"

// idQueue is a queue of entries in the order of their due time. That is the order of
// arrival, because all entries of a queue have the same retention. Only a reservation
// that is cancelled after its lease becomes due before those ahead of it.
type idQueue struct{ head, tail uint32 }

// push adds an entry to a queue of its account.
func (p *partition) push(q *idQueue, entryID uint32, due int64) {
	entry := p.entries.at(entryID)
	entry.due, entry.next = due, 0
	p.noteDue(due)
	if q.tail == 0 {
		q.head = entryID
	} else {
		p.entries.at(q.tail).next = entryID
	}
	q.tail = entryID
}

// pushInOrder adds an entry with a due time to a queue of its account, behind those that
// are due before. Those up to after, if it is not 0, are. It returns the entry to continue
// after.
func (p *partition) pushInOrder(q *idQueue, entryID, after uint32) uint32 {
	entry := p.entries.at(entryID)
	if q.tail == 0 || p.entries.at(q.tail).due <= entry.due {
		p.push(q, entryID, entry.due)
		return after
	}
	next := q.head
	if after != 0 {
		next = p.entries.at(after).next
	}
	for p.entries.at(next).due <= entry.due {
		after, next = next, p.entries.at(next).next
	}
	entry.next = next
	if after == 0 {
		q.head = entryID
	} else {
		p.entries.at(after).next = entryID
	}
	p.noteDue(entry.due)
	return entryID
}

// pushCheck and pushEnded add an entry to the queue of what is remembered for a short and
// for a long time.
func (p *partition) pushCheck(entryID uint32, now Time) {
	p.push(&p.accounts.at(p.entries.at(entryID).account()).checks, entryID, now.Mono+checkRetention)
}

func (p *partition) pushEnded(entryID uint32, now Time) {
	p.push(&p.accounts.at(p.entries.at(entryID).account()).ended, entryID, now.Mono+endedRetention)
}

func (p *partition) pop(q *idQueue) uint32 {
	first := queued{id: q.head}
	p.unlink(q, first)
	return first.id
}

// queued is an entry of a queue, 0 if there is none, and the one ahead of it.
type queued struct{ id, ahead uint32 }

// oldest returns the first entry of a queue that may be forgotten.
func (p *partition) oldest(q *idQueue) (first queued) {
	first.id = q.head
	for first.id != 0 && p.records.closed && p.entries.at(first.id).state() == idExpired {
		first.id, first.ahead = p.entries.at(first.id).next, first.id
	}
	return first
}

// unlink removes an entry from its queue.
func (p *partition) unlink(q *idQueue, x queued) {
	next := &p.entries.at(x.id).next
	if x.ahead == 0 {
		q.head = *next
	} else {
		p.entries.at(x.ahead).next = *next
	}
	if q.tail == x.id {
		q.tail = x.ahead
	}
	*next = 0
}

// noteDue makes sure that entries are visited when one of them is due.
func (p *partition) noteDue(due int64) {
	p.idsNext = min(p.idsNext, due)
	p.idsDue = min(p.idsDue, due)
	p.nextDue = min(p.nextDue, due)
}

const (
	// maxDue is the most due entries that one call handles, so that no call waits for
	// many that end together. The sweep does the rest. Late work frees slots and estimates
	// late, but never admits more.
	maxDue = 64
	// generation is the time between two visits of the ended ids, in nanoseconds. Those
	// that die within one generation are removed together. Until then they are not found.
	generation = 1e9
)

// runDue ends expired leases and removes ids after their retention, at most maxDue. If
// more are due, nextDue is in the past. In a closed partition leases do not end.
func (p *partition) runDue(now Time) {
	left := maxDue
	for ; !p.records.closed && left > 0 && len(p.leaseHeap) > 0 && p.entries.at(p.leaseHeap[0]).due <= now.Mono; left-- {
		p.expire(p.leaseHeap[0], now)
	}
	if p.idsDue <= now.Mono {
		p.removeDue(now, left)
	}
	p.nextDue = p.idsDue
	if len(p.leaseHeap) > 0 && !p.records.closed {
		p.nextDue = min(p.nextDue, p.entries.at(p.leaseHeap[0]).due)
	}
}

// removeDue removes up to n ids that are due, and continues where it stopped last.
func (p *partition) removeDue(now Time, n int) {
	switch {
	case p.dueAccount == 0:
		p.idsNext = math.MaxInt64
		p.dueAccount = p.accounts.next(0)
	case p.accounts.at(p.dueAccount).n == 0: // removed meanwhile
		p.dueAccount = p.accounts.next(p.dueAccount)
	}
	for p.dueAccount != 0 {
		account := p.dueAccount
		a := p.accounts.at(account)
		a.n++ // keeps the account
		for _, q := range [...]*idQueue{&a.checks, &a.ended} {
			for ; n > 0 && q.head != 0 && p.removable(p.entries.at(q.head), now); n-- {
				p.deleteEntry(p.pop(q))
			}
			if q.head != 0 {
				p.idsNext = min(p.idsNext, p.entries.at(q.head).due)
			}
		}
		a.n--
		if n <= 0 && a.n > 0 {
			return // this account may have more
		}
		p.dueAccount = p.accounts.next(account)
		p.accounts.release(account)
		n-- // a visit is work, too
	}
	if p.idsDue = p.idsNext; p.idsDue != math.MaxInt64 {
		p.idsDue = max(p.idsDue, now.Mono+generation)
	}
}

// removable reports whether an entry may be removed, whose retention is over. In a copy an
// expired reservation is removed together with its charges, when the owner removed it.
func (p *partition) removable(entry *idEntry, now Time) bool {
	return entry.due <= now.Mono && (!p.records.closed || entry.state() != idExpired)
}

// heapPush adds an entry to leaseHeap, a binary heap ordered by due. Each entry knows
// its position, so that progress can move it.
func (p *partition) heapPush(entryID uint32) {
	p.nextDue = min(p.nextDue, p.entries.at(entryID).due)
	p.leaseHeap = append(p.leaseHeap, entryID)
	p.heapUp(len(p.leaseHeap) - 1)
}

func (p *partition) heapRemove(entryID uint32) {
	i, last := int(p.entries.at(entryID).next), len(p.leaseHeap)-1
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
		p.leaseHeap[i], entry.next = p.leaseHeap[parent], uint32(i)
		i = parent
	}
	p.leaseHeap[i] = entryID
	p.entries.at(entryID).next = uint32(i)
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
		p.leaseHeap[i], entry.next = p.leaseHeap[child], uint32(i)
		i, moved = child, true
	}
	p.leaseHeap[i] = entryID
	p.entries.at(entryID).next = uint32(i)
	return moved
}
