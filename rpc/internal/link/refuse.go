// SPDX-License-Identifier: Apache-2.0

package link

import "time"

// Refuse returns an [OverloadedError] if any ordinary call would be refused now, and counts
// that call as refused. Start and Do call it themselves. A caller that asks before it makes
// the item saves that work. It allocates nothing and takes no lock.
func (l *Link) Refuse() error {
	until := l.refuseUntil.Load()
	if until == 0 {
		return nil
	}
	retry := time.Duration(l.refuseRetry.Load())
	if until != never {
		if retry = time.Duration(until - l.now()); retry <= 0 {
			return nil
		}
	}
	l.unrecorded.Add(1)
	if l.o.Events.Refused != nil {
		l.o.Events.Refused()
	}
	return refusal(retry)
}

// updateRefusalsLocked records what Refuse has refused, and sets what it does from now on.
func (l *Link) updateRefusalsLocked(now int64) {
	l.recordRefusalsLocked(now)
	var until int64
	switch queued, urgent := l.mu.queue.others.n, l.mu.queue.urgent.n; {
	case l.mu.closed, l.mu.breaker.open:
	case l.mu.admission.full(now, queued, urgent):
		l.refuseRetry.Store(int64(l.mu.admission.retryAfter(now, queued)))
		until = never
	case l.mu.throttling:
		until = l.mu.throttle.FullUntil(now)
	}
	if until != l.refuseUntil.Load() {
		l.refuseUntil.Store(until)
	}
}

// refusesLocked reports whether Refuse may have to refuse something. It needs no clock.
func (l *Link) refusesLocked() bool {
	return l.refuseUntil.Load() != 0 || l.mu.throttling || l.mu.queue.others.n >= l.mu.admission.bound || l.mu.queue.urgent.n >= 2*minQueue
}

// overloadedLocked returns why an ordinary call must not join the queue; nil if it may.
func (l *Link) overloadedLocked(now, deadline int64) error {
	l.recordRefusalsLocked(now)
	queued := l.mu.queue.others.n
	if !l.mu.admission.admits(now, queued, l.mu.queue.urgent.n, deadline) {
		return refusal(l.mu.admission.retryAfter(now, queued))
	}
	if l.mu.throttling {
		if retry, full := l.mu.throttle.Full(now); full {
			return refusal(retry)
		}
		l.mu.throttling = l.mu.throttle.Limiting(now)
	}
	return nil
}

// recordRefusalsLocked records what Refuse has refused.
func (l *Link) recordRefusalsLocked(now int64) {
	if l.unrecorded.Load() == 0 {
		return
	}
	n := l.unrecorded.Swap(0)
	if l.mu.throttling && l.refuseUntil.Load() != never {
		l.mu.throttle.Held(n)
	} else {
		l.mu.admission.recordRefusal(now)
	}
	l.countRefusalsLocked(now, n)
}

// countRefusalsLocked counts refused calls.
func (l *Link) countRefusalsLocked(now, n int64) {
	l.mu.refused += uint64(n)
	l.mu.refusedLately.Add(now, n)
	if l.o.Events.Overloaded != nil && now >= l.mu.reportNext {
		l.mu.reportNext = now + int64(overloadInterval)
		l.mu.events = append(l.mu.events, event{overload: &Overload{
			Refused:   l.mu.refused - l.mu.reported,
			Throttled: l.mu.throttling,
			Queued:    l.mu.queue.n,
			Rate:      l.mu.admission.rate,
			RoundTrip: time.Duration(l.mu.admission.roundTrip),
		}})
		l.mu.reported = l.mu.refused
	}
}
