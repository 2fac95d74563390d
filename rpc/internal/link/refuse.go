// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"time"
)

// Refuse returns an [OverloadedError] if an ordinary call with ctx would be refused now,
// and counts that call as refused. Start and Do call it themselves. A caller that asks
// before it makes the item saves that work. It allocates nothing, and takes no lock unless
// the link is overloaded.
func (l *Link) Refuse(ctx context.Context) error {
	if !l.pressed.Load() {
		return nil
	}
	now := l.now()
	deadline := l.deadline(ctx, now)
	l.mu.Lock()
	var err error
	if !l.mu.closed && !l.mu.breaker.open {
		if err = l.overloadedLocked(now, deadline); err != nil {
			l.recordRefusalLocked(now)
		}
	}
	l.unlock()
	if err != nil && l.o.Events.Refused != nil {
		l.o.Events.Refused()
	}
	return err
}

// overloadedLocked returns why an ordinary call must not join the queue; nil if it may.
func (l *Link) overloadedLocked(now, deadline int64) error {
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
	l.updatePressedLocked(now)
	return nil
}

// recordRefusalLocked counts a refused call.
func (l *Link) recordRefusalLocked(now int64) {
	l.mu.refused++
	l.mu.refusedLately.Add(now, 1)
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

// updatePressedLocked sets pressed after the queue, its bound or the throttle has changed.
func (l *Link) updatePressedLocked(now int64) {
	pressed := l.mu.admission.full(now, l.mu.queue.others.n, l.mu.queue.urgent.n) || l.mu.throttling
	if pressed != l.pressed.Load() {
		l.pressed.Store(pressed)
	}
}
