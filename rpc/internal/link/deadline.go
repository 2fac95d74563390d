// SPDX-License-Identifier: Apache-2.0

package link

import "time"

// All calls of a link share one timer. It is set to the earliest deadline seen
// since it last fired, so it is rarely reset: most calls are answered by then.

// armTimerLocked makes the timer fire no later than deadline.
func (l *Link) armTimerLocked(deadline int64) {
	if deadline >= l.mu.timerAt {
		return
	}
	l.mu.timerAt = deadline
	in := time.Duration(deadline - l.now())
	if l.mu.timer == nil {
		l.mu.timer = time.AfterFunc(in, l.expire)
	} else {
		l.mu.timer.Reset(in)
	}
}

// expire ends the calls whose deadline or patience is over.
func (l *Link) expire() {
	l.mu.Lock()
	defer l.unlock()
	if l.mu.closed {
		return
	}
	now := l.now()
	n := 0
	for p := l.mu.deadlines.first(); p != nil && p.wakeAt <= now; p = l.mu.deadlines.first() {
		if at := l.patientUntilLocked(p, now); at > now {
			l.mu.deadlines.remove(p)
			p.wakeAt = at
			l.mu.deadlines.push(p)
			continue
		}
		l.failLocked(p, l.timeoutLocked(p, now))
		n++
	}
	l.recordFailureLocked(ErrTimeout, n)
	l.timedOutLocked(now, n)
	l.mu.timerAt = never
	if p := l.mu.deadlines.first(); p != nil {
		l.armTimerLocked(p.wakeAt)
	}
}

// patientUntilLocked returns when to look again at a call whose wakeAt has come; not after
// now if it is to end.
//
// A call that loses its patience was looked at twice, some time apart: if this process has
// not run for a while, an answer may be waiting to be read.
func (l *Link) patientUntilLocked(p *Pending, now int64) int64 {
	if p.deadline <= now {
		return p.deadline
	}
	if l.stalledLocked(now) {
		p.doubted = false
		return min(now+p.patience, p.deadline)
	}
	over := l.patienceEndsLocked(p, now)
	apart := p.looksApart()
	switch {
	case over > now+apart:
		p.doubted = false
		over -= apart
	case !p.doubted:
		p.doubted = true
		over = max(over, now+apart)
	}
	return min(over, p.deadline)
}

// patienceEndsLocked returns when a call is for another member to decide.
//
// Long round trips make a call more patient. But where packets are lost, round trips are long
// and a connection can stop for a second. So the last quarter of the time of a call is left
// for another member if this one is silent; and the last eighth even if it answers others,
// unless it is asked more than it answers in time: then another one would be in its way, too.
func (l *Link) patienceEndsLocked(p *Pending, now int64) int64 {
	silentSince := max(p.started, l.mu.admission.lastAnswer)
	whole := p.deadline - p.started
	over := min(silentSince+l.mu.breaker.patienceOf(p.patience), max(silentSince+p.patience, p.deadline-whole/4))
	if !l.mu.admission.crowded(now) {
		over = min(over, p.deadline-whole/8)
	}
	return over
}

// looksApart returns the time between two looks at a call.
func (p *Pending) looksApart() int64 { return min(int64(20*time.Millisecond), p.patience/4) }

// timedOutLocked informs the breaker of calls that timed out.
func (l *Link) timedOutLocked(now int64, calls int) {
	switch {
	case calls == 0:
	case l.stalledLocked(now):
		l.mu.breaker.restart(now)
	case l.mu.breaker.timedOut(now, calls):
		l.tripLocked(now)
	}
}

// stalledLocked reports whether this process did not run for a while: the timer is
// overdue. Answers may be waiting to be read then, so calls that time out say
// nothing about the member.
func (l *Link) stalledLocked(now int64) bool {
	return l.mu.timerAt != never && now-l.mu.timerAt > int64(l.o.Timeout)/32
}

// heap is a 4-ary min-heap of calls by wakeAt. Deadlines are mostly added and
// removed in order, which is cheap.
type heap []heapEntry

type heapEntry struct {
	at int64 // p.wakeAt
	p  *Pending
}

func (h heap) first() *Pending {
	if len(h) == 0 {
		return nil
	}
	return h[0].p
}

func (h *heap) push(p *Pending) {
	*h = append(*h, heapEntry{})
	h.up(len(*h)-1, heapEntry{p.wakeAt, p})
}

func (h *heap) remove(p *Pending) {
	at, last := p.heapIndex, len(*h)-1
	moved := (*h)[last]
	(*h)[last] = heapEntry{}
	*h = (*h)[:last]
	if at == last {
		return
	}
	if at > 0 && moved.at < (*h)[(at-1)/4].at {
		h.up(at, moved)
	} else {
		h.down(at, moved)
	}
}

// up puts d at the free place i, or at one of its ancestors.
func (h *heap) up(i int, d heapEntry) {
	for i > 0 {
		parent := (i - 1) / 4
		if (*h)[parent].at <= d.at {
			break
		}
		h.set(i, (*h)[parent])
		i = parent
	}
	h.set(i, d)
}

// down puts d at the free place i, or at one of its descendants.
func (h *heap) down(i int, d heapEntry) {
	for {
		least := -1
		for c := 4*i + 1; c < min(4*i+5, len(*h)); c++ {
			if least < 0 || (*h)[c].at < (*h)[least].at {
				least = c
			}
		}
		if least < 0 || d.at <= (*h)[least].at {
			break
		}
		h.set(i, (*h)[least])
		i = least
	}
	h.set(i, d)
}

func (h *heap) set(i int, d heapEntry) {
	(*h)[i] = d
	d.p.heapIndex = i
}
