// SPDX-License-Identifier: Apache-2.0

package limiter

import "math"

// fifo is a queue of holds to forget, in order of their due time, which is the
// order of arrival because each queue has one constant delay.
type fifo struct{ head, tail uint32 }

func (p *partition) push(q *fifo, no uint32, due int64) {
	p.holds.at(no).due = due
	p.nextDue = min(p.nextDue, due)
	if q.tail == 0 {
		q.head = no
	} else {
		p.holds.at(q.tail).next = no
	}
	q.tail = no
}

func (p *partition) pop(q *fifo) uint32 {
	no := q.head
	x := p.holds.at(no)
	q.head, x.next = x.next, 0
	if q.head == 0 {
		q.tail = 0
	}
	return no
}

// forgetOldest drops the answered id that is due first, to make room.
func (p *partition) forgetOldest() bool {
	q := &p.checks
	if q.head == 0 || p.ended.head != 0 && p.holds.at(p.ended.head).due < p.holds.at(q.head).due {
		q = &p.ended
	}
	if q.head == 0 {
		return false
	}
	p.forget(p.pop(q))
	return true
}

// forget ends the memory of an id. What an expired lease charged is now final.
func (p *partition) forget(no uint32) {
	if x := p.holds.at(no); x.status == Expired {
		p.release(x)
	}
	p.deleteHold(no)
}

// maxDue bounds the due work that one call does for others, so that none waits
// for a crowd of leases that end together. The sweep and later calls do the rest;
// being late frees a slot or an estimate late and never admits more.
const maxDue = 64

// runDue ends leases that ran out and forgets ids that are due.
func (p *partition) runDue(now Time) {
	for range maxDue {
		switch {
		case len(p.live) > 0 && p.holds.at(p.live[0]).due <= now.Mono:
			p.expire(p.live[0], now)
		case p.checks.head != 0 && p.holds.at(p.checks.head).due <= now.Mono:
			p.forget(p.pop(&p.checks))
		case p.ended.head != 0 && p.holds.at(p.ended.head).due <= now.Mono:
			p.forget(p.pop(&p.ended))
		default:
			p.nextDue = p.earliest()
			return
		}
	}
}

// earliest returns when something is due next.
func (p *partition) earliest() int64 {
	next := int64(math.MaxInt64)
	if len(p.live) > 0 {
		next = p.holds.at(p.live[0]).due
	}
	for _, q := range [...]fifo{p.checks, p.ended} {
		if q.head != 0 {
			next = min(next, p.holds.at(q.head).due)
		}
	}
	return next
}

// The live leases are a binary heap ordered by due; a hold knows its position,
// so that progress can move it.

func (p *partition) heapPush(no uint32) {
	p.nextDue = min(p.nextDue, p.holds.at(no).due)
	p.live = append(p.live, no)
	p.heapUp(len(p.live) - 1)
}

func (p *partition) heapRemove(no uint32) {
	i, last := int(p.holds.at(no).heap), len(p.live)-1
	moved := p.live[last]
	p.live = p.live[:last]
	if i < last {
		p.live[i] = moved
		p.heapFix(i)
	}
}

func (p *partition) heapFix(i int) {
	if !p.heapDown(i) {
		p.heapUp(i)
	}
}

func (p *partition) heapUp(i int) {
	no := p.live[i]
	due := p.holds.at(no).due
	for i > 0 {
		up := (i - 1) / 2
		x := p.holds.at(p.live[up])
		if x.due <= due {
			break
		}
		p.live[i], x.heap = p.live[up], uint32(i)
		i = up
	}
	p.live[i] = no
	p.holds.at(no).heap = uint32(i)
}

func (p *partition) heapDown(i int) (moved bool) {
	no := p.live[i]
	due := p.holds.at(no).due
	for {
		child := 2*i + 1
		if child >= len(p.live) {
			break
		}
		if r := child + 1; r < len(p.live) && p.holds.at(p.live[r]).due < p.holds.at(p.live[child]).due {
			child = r
		}
		x := p.holds.at(p.live[child])
		if x.due >= due {
			break
		}
		p.live[i], x.heap = p.live[child], uint32(i)
		i, moved = child, true
	}
	p.live[i] = no
	p.holds.at(no).heap = uint32(i)
	return moved
}
