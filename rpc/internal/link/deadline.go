// SPDX-License-Identifier: Apache-2.0

package link

import "time"

// All calls of a link share one timer. It is set to the earliest deadline that
// was seen since it fired last, so it is rarely set: the call that it was set
// for has mostly been answered when it fires.

// alarmLocked makes the timer fire at deadline at the latest.
func (l *Link) alarmLocked(deadline int64) {
	if deadline >= l.mu.fires {
		return
	}
	l.mu.fires = deadline
	in := time.Duration(deadline - l.now())
	if l.mu.timer == nil {
		l.mu.timer = time.AfterFunc(in, l.expire)
	} else {
		l.mu.timer.Reset(in)
	}
}

// expire ends the calls that are late.
func (l *Link) expire() {
	l.mu.Lock()
	defer l.unlock()
	if l.mu.closed {
		return
	}
	now := l.now()
	n := 0
	for p := l.mu.due.first(); p != nil && p.deadline <= now; p = l.mu.due.first() {
		l.failLocked(p, ErrLate)
		n++
	}
	l.noteLocked(ErrLate, n)
	l.missedLocked(now, n)
	l.mu.fires = never
	if p := l.mu.due.first(); p != nil {
		l.alarmLocked(p.deadline)
	}
}

// missedLocked tells the breaker that calls ran late.
func (l *Link) missedLocked(now int64, calls int) {
	switch {
	case calls == 0:
	case l.stoppedLocked(now):
		l.mu.breaker.restart(now)
	case l.mu.breaker.missed(now, calls):
		l.cutLocked(now)
	}
}

// stoppedLocked reports whether it is this process that did not run for a while:
// the timer is overdue. Answers may be waiting to be read, so that is no sign
// that the member is silent.
func (l *Link) stoppedLocked(now int64) bool {
	return l.mu.fires != never && now-l.mu.fires > int64(l.o.Timeout)/8
}

// heap holds calls, the one with the earliest deadline first. Each has four
// children. Deadlines mostly come in order and go in order, so both are cheap.
type heap []due

type due struct {
	deadline int64
	p        *Pending
}

func (h heap) first() *Pending {
	if len(h) == 0 {
		return nil
	}
	return h[0].p
}

func (h *heap) push(p *Pending) {
	*h = append(*h, due{})
	h.up(len(*h)-1, due{p.deadline, p})
}

func (h *heap) remove(p *Pending) {
	at, last := p.due, len(*h)-1
	moved := (*h)[last]
	(*h)[last] = due{}
	*h = (*h)[:last]
	if at == last {
		return
	}
	if at > 0 && moved.deadline < (*h)[(at-1)/4].deadline {
		h.up(at, moved)
	} else {
		h.down(at, moved)
	}
}

// up puts d at i, which is free, or above.
func (h *heap) up(i int, d due) {
	for i > 0 {
		parent := (i - 1) / 4
		if (*h)[parent].deadline <= d.deadline {
			break
		}
		h.set(i, (*h)[parent])
		i = parent
	}
	h.set(i, d)
}

// down puts d at i, which is free, or below.
func (h *heap) down(i int, d due) {
	for {
		least := -1
		for c := 4*i + 1; c < min(4*i+5, len(*h)); c++ {
			if least < 0 || (*h)[c].deadline < (*h)[least].deadline {
				least = c
			}
		}
		if least < 0 || d.deadline <= (*h)[least].deadline {
			break
		}
		h.set(i, (*h)[least])
		i = least
	}
	h.set(i, d)
}

func (h *heap) set(i int, d due) {
	(*h)[i] = d
	d.p.due = i
}
