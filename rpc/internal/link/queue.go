// SPDX-License-Identifier: Apache-2.0

package link

import "github.com/bucketring/bucketring/rpc/pb"

// queue holds the calls that wait to be sent, in two classes. Urgent calls are sent
// before all others. Each class is FIFO.
type queue struct {
	urgent, ordinary list
	n                int // calls of both
	bytes            int // of their items
}

// isUrgent reports whether item ends or corrects something that was decided before: a
// settle, progress, cancel, withdrawal, replay or give-back. To hold such a call back
// saves nothing, since it frees what new calls need.
func isUrgent(item *pb.Item) bool {
	switch c := item.GetCall().(type) {
	case *pb.Item_Settle, *pb.Item_Cancel:
		return true
	case *pb.Item_Count:
		return item.GetReplay() || c.Count.GetGiveBack()
	}
	return item.GetReplay()
}

func (q *queue) class(p *Pending) *list {
	if p.urgent {
		return &q.urgent
	}
	return &q.ordinary
}

func (q *queue) push(p *Pending) {
	q.class(p).push(p)
	q.n++
	q.bytes += len(p.wire)
}

// pushFront puts p before the other calls of its class.
func (q *queue) pushFront(p *Pending) {
	q.class(p).pushFront(p)
	q.n++
	q.bytes += len(p.wire)
}

func (q *queue) remove(p *Pending) {
	q.class(p).remove(p)
	q.n--
	q.bytes -= len(p.wire)
}

// first returns the next call to be sent; nil if there is none.
func (q *queue) first() *Pending {
	if q.urgent.head != nil {
		return q.urgent.head
	}
	return q.ordinary.head
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
