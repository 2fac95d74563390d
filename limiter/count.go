// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math"
	"strconv"

	"github.com/bucketring/bucketring/internal/keypath"
)

// A counter is a record named by its key and, in place of a model, its window. Its
// limit comes with each call and is not in the catalog, so that made-up limits take
// no memory. All counters share the definition counterLimit. Their bucket is that of
// a fixed window: the window's end and the usage in it. Only a call knows the length
// of the window, so only calls open the next one.

// counterLimitOf returns the limit that came with the last call for a counter, or 0 if it
// is not known. It says only what may be evicted.
func counterLimitOf(rec *record) uint64 { return rec.buckets[1].lo }

// counter is the algorithm of counters. Policies cannot use it.
const counter = Concurrency + 1

// counterLimit is the definition of all counters. The window is in a counter's name.
var counterLimit = Limit{Name: "counter", Algorithm: counter}

// counterMark is the first byte after the key in a counter's name. It is not
// printable, so no model begins with it.
const counterMark = "\x01"

// CountRequest is the argument of [Engine.Count]. The engine keeps no reference to
// it.
type CountRequest struct {
	Key    string // must be valid, see [ValidateKey]
	Window Window // must be valid, see [Window.Validate]
	// ID makes the request idempotent. Requests without one are not remembered.
	ID string
	// Throttle, if it is set, is in place of Window and Limit: the hits are taken from a token
	// bucket, all or none. GiveBack and Try must not be set.
	Throttle Throttle
	// Limit is compared with the usage, from 0 to [MaxAmount]. It is not part of the
	// counter's name or of the request's identity.
	Limit int64
	// Hits are the units to count, from 0 to [MaxAmount].
	Hits int64
	// GiveBack subtracts the hits instead, down to 0.
	GiveBack bool

	// Force marks hits that were already counted elsewhere. They count only if their
	// window, which ends at WindowEnd in Unix nanoseconds, is not over. A WindowEnd
	// of 0 is never over. Neither field is part of the request's identity.
	Force     bool
	WindowEnd int64

	// Try counts nothing if slices of the counter are lent and the hits would be over the
	// limit, or are given back: the slices may come back first, see [CountResult].Waits.
	Try bool
	// Asker and TakesSlice are as in [Request].
	Asker      uint32
	TakesSlice bool
}

// CountResult is the state of a counter after a [CountRequest].
type CountResult struct {
	// Used is the usage in the window, with all that is lent.
	Used int64
	// End is the end of the window in Unix nanoseconds, and Reset the time until
	// then in nanoseconds, at least 1.
	End, Reset int64
	// Over means that Used is more than the request's limit, or that Full is set. Of a
	// throttle, it means that nothing was taken.
	Over bool
	// Of a throttle: Remaining is what its bucket has, in whole tokens, and RetryAfter when it
	// has enough, in nanoseconds, if Over is set: -1 if it never has. End and Reset are when
	// the bucket is full, and Reset may be 0. Used is not set.
	Remaining, RetryAfter int64
	// Full means that there was no room for a new counter and nothing was counted.
	Full bool
	// Waits means that nothing was counted because of [CountRequest].Try.
	Waits bool
	// Replayed means that Used and End are those of the earlier answer to a known id.
	Replayed bool
	// Change and Large are as in [Decision]. Hits are large from 1 % of the request's limit.
	Change uint64
	Large  bool
	// Rate and AskerShare are as in [Decision].
	Rate, AskerShare int64
}

// Count adds the hits of q to a counter, even beyond the limit of q, and reports the
// counter in d. From a throttle it takes them only if its bucket has as many. Windows are those of [Window.Bounds]; one that is open stays open
// until its end even if the clock steps back. A request of 0 hits creates no state.
// Repeating q.ID returns the same result for 30 s, or for 10 minutes if q.Force is
// set. The error is a [*FieldError], [ErrClosed], or matches [ErrConflict].
func (e *Engine) Count(now Time, q *CountRequest, d *CountResult) error {
	s, root := e.lock(q.Key)
	defer s.Unlock()
	return s.count(now, root, q, d)
}

func (p *partition) count(now Time, root uint64, q *CountRequest, d *CountResult) error {
	if p.records.closed {
		d.Change, d.Large = 0, false
		return ErrClosed
	}
	now = p.tick(now)
	d.Rate, d.AskerShare = 0, 0
	if !q.Force && !q.Throttle.IsSet() { // which is not lent, so that only its owner decides
		d.Rate, d.AskerShare = p.sample(now, root, &Request{Key: q.Key, Model: counterMark, Asker: q.Asker, TakesSlice: q.TakesSlice})
	}
	var id idKey
	var body uint32
	if q.ID != "" {
		id, body = idKeyOf(root, q.ID), q.digest()
		if _, entry := p.findEntry(p.accounts.find(root), id); entry != nil {
			if entry.body != body || entry.state() != idCount {
				return &ConflictError{"the id was used for another request"}
			}
			if b := (bucket{hi: entry.value[1], lo: uint64(entry.value[0])}); q.Throttle.IsSet() {
				d.setThrottle(q.Throttle, q.Throttle.missing(b, uint64(q.Throttle.Count), now), now)
			} else {
				d.set(q, now, b)
			}
			d.Replayed, d.Change, d.Large = true, p.seq, true
			return nil
		}
	}
	if q.Throttle.IsSet() {
		return p.throttle(now, root, q, d, id, body)
	}
	var buf [maxCounterName]byte
	window := string(q.Window.appendName(buf[:0]))
	recordID, rec := p.find(q.Key, window)
	var b bucket
	if rec != nil {
		p.advance(rec, now)
		b = rec.buckets[0]
	}
	if now.Wall >= b.hi { // an open window never ends early, so no window opens twice
		_, end := q.Window.Bounds(now.Wall)
		b = bucket{hi: end}
	}
	hits := q.Hits
	if q.Force && q.WindowEnd != 0 && q.WindowEnd < b.hi {
		hits = 0 // their window is over
	}
	switch {
	case hits == 0:
	case q.Try && rec != nil && rec.pins > 0 && (q.GiveBack || b.lo+uint64(hits) > uint64(q.Limit)):
		d.set(q, now, b)
		d.Waits = true
		return nil
	case q.GiveBack:
		b.lo -= min(b.lo-min(b.lo, p.lentOf(rec, b)), uint64(hits)) // what is lent is not used yet
	case b.lo > uint64(math.MaxInt64/2-hits):
		return numberError("hits", hits, "does not fit the counter")
	default:
		if rec == nil {
			if recordID, rec, _ = p.create(keypath.Root(q.Key), q.Key, window, p.engine.catalog.counter, now); rec == nil {
				p.stats.tableFull++
				d.set(q, now, b)
				d.Over, d.Full = true, true
				return nil
			}
		}
		b.lo += uint64(hits)
	}
	change, large := p.seq, false
	if rec != nil && hits != 0 {
		p.seq++
		p.recordChanged(rec, recordID)
		large = !q.GiveBack && hits >= (q.Limit+99)/100
	}
	if rec != nil {
		rec.buckets[0] = b
		if q.Limit > 0 {
			rec.buckets[1].lo = uint64(q.Limit)
		}
	}
	d.set(q, now, b)
	if q.ID != "" && q.Hits > 0 {
		p.rememberCount(now, root, q, id, body, b)
	}
	if p.seq != change {
		d.Change, d.Large = p.seq, large
	}
	return nil
}

// set fills in the result for a counter's bucket after the request.
func (d *CountResult) set(q *CountRequest, now Time, b bucket) {
	*d = CountResult{Used: int64(b.lo), End: b.hi, Reset: max(b.hi-now.Wall, 1), Rate: d.Rate, AskerShare: d.AskerShare}
	d.Over = d.Used > q.Limit
}

// rememberCount stores the result under the request's id. Like a check, the request goes
// on if there is no room for it.
func (p *partition) rememberCount(now Time, root uint64, q *CountRequest, id idKey, body uint32, b bucket) {
	entryID, entry := p.addEntry(root, id, idCount)
	if entry == nil {
		p.stats.forgotten++
		return
	}
	p.seq++
	entry.body, entry.value = body, [2]int64{int64(b.lo), b.hi}
	if q.Force {
		p.pushEnded(entryID, now)
		return
	}
	p.pushCheck(entryID, now)
}

// digest identifies the body of a request, to detect another one with the same id.
func (q *CountRequest) digest() uint32 {
	h := mixString(counterDigest, q.Key)
	for _, n := range [...]int64{int64(q.Window.Unit), q.Window.multiple(), q.Hits, boolInt(q.GiveBack)} {
		h = mix(h, uint64(n))
	}
	if t := q.Throttle; t.IsSet() {
		h = mix(mix(mix(h, uint64(t.Capacity)), uint64(t.Count)), uint64(t.Period))
	}
	return uint32(h)
}

// counterDigest is the seed of digest. Those of checks and reserves are 0 and 1.
const counterDigest = 2

// maxCounterName is the longest output of appendName: the mark, a unit and ten digits.
const maxCounterName = len(counterMark) + 1 + 10

// appendName appends the part of a counter's name that identifies its window.
func (w Window) appendName(b []byte) []byte {
	b = append(append(b, counterMark...), '0'+byte(w.Unit))
	if n := w.multiple(); n > 1 {
		b = strconv.AppendInt(b, n, 10)
	}
	return b
}
