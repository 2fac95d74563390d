// SPDX-License-Identifier: Apache-2.0

package link

import "github.com/bucketring/bucketring/rpc/pb"

// queue holds the calls that wait to be sent. Urgent calls are sent before all others that
// have not waited for long; apart from that it is FIFO.
type queue struct {
	urgent, others list
	n              int // calls of both
	bytes          int // of their items
}

// class is how a call is treated when there are too many.
type class uint8

const (
	ordinary class = iota // may be refused
	kept                  // is never refused because of overload, and sent in its turn
	urgent                // the same, and is sent before the others, see oldShare
)

// classOf returns the class of an item. What ends or corrects something that was decided
// before is not ordinary: to hold it back saves nothing, since it frees what new calls
// need. A give-back does not overtake the hits that it takes off.
func classOf(item *pb.Item) class {
	switch c := item.GetCall().(type) {
	case *pb.Item_Settle, *pb.Item_Cancel, *pb.Item_SliceReturn, *pb.Item_SliceRecall, *pb.Item_Admin:
		return urgent
	case *pb.Item_Count:
		if c.Count.GetGiveBack() {
			return kept
		}
	}
	if item.GetReplay() {
		return urgent
	}
	return ordinary
}

func (q *queue) list(p *Pending) *list {
	if p.class == urgent {
		return &q.urgent
	}
	return &q.others
}

func (q *queue) push(p *Pending) {
	q.list(p).push(p)
	q.n++
	q.bytes += len(p.wire)
}

// pushFront puts p before the other calls that are as urgent.
func (q *queue) pushFront(p *Pending) {
	q.list(p).pushFront(p)
	q.n++
	q.bytes += len(p.wire)
}

func (q *queue) remove(p *Pending) {
	q.list(p).remove(p)
	q.n--
	q.bytes -= len(p.wire)
}

// first returns the next call to be sent; nil if there is none.
func (q *queue) first() *Pending {
	if q.urgent.head != nil {
		return q.urgent.head
	}
	return q.others.head
}

// list is a doubly linked list of calls.
type list struct {
	head, tail *Pending
	n          int
}

func (l *list) push(p *Pending) {
	p.prev, p.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = p
	} else {
		l.head = p
	}
	l.tail = p
	l.n++
}

func (l *list) pushFront(p *Pending) {
	p.prev, p.next = nil, l.head
	if l.head != nil {
		l.head.prev = p
	} else {
		l.tail = p
	}
	l.head = p
	l.n++
}

func (l *list) remove(p *Pending) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		l.head = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		l.tail = p.prev
	}
	p.prev, p.next = nil, nil
	l.n--
}
