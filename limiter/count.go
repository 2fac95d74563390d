// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math"
	"strconv"
)

// A counter is a record of its own: under its key, with its window in place of a
// model. Its limit is not in the catalog but comes with each call, so however
// many limits a caller makes up, they take no memory. All counters have the one
// definition that follows, and a slot that is a fixed window's: when the window
// ends, and what was used in it. Only a call knows when the next one ends, so the
// slot is brought up to date by calls alone.

// counter is the algorithm of counters. No policy can name it.
const counter = Concurrency + 1

// counterLimit has nothing but the algorithm: the rest is in a counter's name.
var counterLimit = Limit{Name: "counter", Algorithm: counter}

// counterMark begins what stands in place of the model in a counter's name. No
// model has it: it is not printable.
const counterMark = "\x01"

// Count is hits on a counter. The engine keeps no reference to it.
type CountRequest struct {
	Key    string // validated by the caller, as that of a [Request]
	Window Window // valid
	// ID makes the call idempotent. Empty: it is not remembered.
	ID string
	// Limit is what Over compares with, from 0 to [MaxAmount]. It is no part of
	// the counter's name, nor of the call's identity.
	Limit int64
	// Hits are from 0 to [MaxAmount].
	Hits int64
	// GiveBack takes the hits off, as far as there are any.
	GiveBack bool

	// Force: the hits were counted elsewhere and are only told now. They count if
	// the window in which they came, which ended at WindowEnd in Unix nanoseconds,
	// is not over; 0: it is not. Neither is part of the call's identity.
	Force     bool
	WindowEnd int64
}

// Counted is what a counter came to.
type CountResult struct {
	Used int64
	// End is when the window ends, in Unix nanoseconds, and Reset how long until
	// then, both by the clock of the engine's caller.
	End, Reset int64
	// Over: Used is more than the limit of the call, or Full is set.
	Over bool
	// Full: there was no room for a new counter, and nothing was counted.
	Full bool
	// Replayed says that the id had been answered before, and Used and End are
	// those of that answer.
	Replayed bool
}

// Count adds hits to a counter whatever its limit says, or takes them off, and
// says what it came to. A counter's window is one of [Window.At], and never ends
// early if the clock steps back. Hits of 0 make no state. The same q.ID returns
// the same answer for 30 s, for 10 minutes if it is forced. The error is a
// [*FieldError] or an [ErrConflict].
func (e *Engine) Count(now Time, q *CountRequest, d *CountResult) error {
	s, root := e.lock(q.Key)
	defer s.Unlock()
	return s.count(now, root, q, d)
}

func (p *partition) count(now Time, root uint64, q *CountRequest, d *CountResult) error {
	now = p.tick(now)
	var id [2]uint64
	var body uint64
	if q.ID != "" {
		id, body = idHash(root, q.ID), q.digest()
		if _, entry := p.findEntry(id); entry != nil {
			if entry.body != body || entry.chargeCount != 1 {
				return &ConflictError{"the id was used for another request"}
			}
			c := p.chargeAt(entry, 0)
			d.set(q, now, bucket{hi: c.reset, lo: uint64(-c.remaining)})
			d.Replayed = true
			return nil
		}
	}
	var buf [maxCounterName]byte
	window := string(q.Window.appendName(buf[:0]))
	_, rec := p.find(q.Key, window)
	var b bucket
	if rec != nil {
		p.advance(rec, now)
		b = rec.buckets[0]
	}
	if now.Wall >= b.hi { // a window that was opened never ends early, so none opens twice
		_, end := q.Window.Bounds(now.Wall)
		b = bucket{hi: end}
	}
	hits := q.Hits
	if q.Force && q.WindowEnd != 0 && q.WindowEnd < b.hi {
		hits = 0 // of a window that is over
	}
	switch {
	case hits == 0:
	case q.GiveBack:
		b.lo -= min(b.lo, uint64(hits))
	case b.lo > uint64(math.MaxInt64/2-hits):
		return &FieldError{Field: "hits", Value: strconv.FormatInt(hits, 10), Problem: "does not fit the counter"}
	default:
		if rec == nil {
			if rec = p.create(rootOf(q.Key), q.Key, window, p.engine.catalog.counter, now); rec == nil {
				p.stats.tableFull++
				d.set(q, now, b)
				d.Over, d.Full = true, true
				return nil
			}
		}
		b.lo += uint64(hits)
	}
	if rec != nil {
		rec.buckets[0] = b
	}
	d.set(q, now, b)
	if q.ID != "" && q.Hits > 0 {
		p.rememberCount(now, q, id, body, b)
	}
	return nil
}

// set fills in an answer from what the counter's slot was after it.
func (d *CountResult) set(q *CountRequest, now Time, b bucket) {
	*d = CountResult{Used: int64(b.lo), End: b.hi, Reset: max(b.hi-now.Wall, 1)}
	d.Over = d.Used > q.Limit
}

// rememberCount keeps an answer, in the form of a check's. If every id in reach
// is a live reservation it is not kept, as a check's is not.
func (p *partition) rememberCount(now Time, q *CountRequest, id [2]uint64, body uint64, b bucket) {
	entryID, entry := p.addEntry(id)
	if entry == nil {
		p.stats.forgotten++
		return
	}
	entry.body, entry.outcome, entry.binding, entry.tier = body, Allowed, -1, p.engine.catalog.tierID("")
	c := p.appendCharge(entry)
	c.limit, c.scopeEnd, c.estimate = p.engine.catalog.counter.limits[0].id, uint16(len(q.Key)), q.Hits
	c.remaining, c.reset = -int64(b.lo), b.hi // what remains of no limit at all
	if q.Force {
		p.push(&p.ended, entryID, now.Mono+endedRetention)
		return
	}
	p.push(&p.checks, entryID, now.Mono+checkRetention)
}

// digest tells a repeated call from another one with the same id.
func (q *CountRequest) digest() uint64 {
	h := mixString(counterDigest, q.Key)
	for _, n := range [...]int64{int64(q.Window.Unit), q.Window.multiple(), q.Hits, boolInt(q.GiveBack)} {
		h = mix(h, uint64(n))
	}
	return h
}

// counterDigest begins where digests of checks and reserves do not.
const counterDigest = 2

// maxCounterName is the longest that appendName makes: a mark, a unit and ten
// digits.
const maxCounterName = len(counterMark) + 1 + 10

// appendName appends what tells a counter with this window from others with the
// same key.
func (w Window) appendName(b []byte) []byte {
	b = append(append(b, counterMark...), '0'+byte(w.Unit))
	if n := w.multiple(); n > 1 {
		b = strconv.AppendInt(b, n, 10)
	}
	return b
}
