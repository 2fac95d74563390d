// SPDX-License-Identifier: Apache-2.0

package limiter

// migrate changes a record, which must have been advanced to now, so that it has
// buckets for all limits of want, and returns their positions. A limit of the same
// dimension and name keeps its usage. Limits that are not in want stay as long as they
// have usage or open reservations.
func (p *partition) migrate(rec *record, recordID uint32, want *schema, now Time) *mapping {
	have := p.engine.catalog.schema(rec.schema)
	if m := p.engine.catalog.mapping(have, want); m != nil {
		return m
	}
	p.seq++
	p.recordChanged(rec, recordID)
	next := append([]*limit(nil), want.limits...)
	for i, l := range have.limits {
		b := *p.bucketAt(rec, i)
		used := rec.pins > 0 || !l.idle(b, p.ringOf(l, b, now))
		if used && want.find(l.bucketID) < 0 {
			next = append(next, l)
		}
	}
	merged := p.engine.catalog.schemaOf(next)
	buckets := make([]bucket, len(next))
	timelines := make([]timeline, len(next))
	for i, l := range have.limits {
		b, t := *p.bucketAt(rec, i), p.timelineOf(rec, i)
		j := merged.find(l.bucketID)
		if j < 0 {
			if l.Algorithm == SlidingWindow && b.lo != 0 {
				p.rings.free(uint32(b.lo))
			}
			continue
		}
		if t != nil {
			timelines[j] = *t
		}
		buckets[j] = p.migrateBucket(rec, l, next[j], b, &timelines[j], now)
	}
	p.reshape(rec, merged)
	for i := range next {
		*p.bucketAt(rec, i) = buckets[i]
		next[i].advance(p.bucketAt(rec, i), nil, 0, now) // sets the end of a new fixed window
	}
	p.setTimelines(rec, timelines)
	return p.engine.catalog.mapping(merged, want)
}

// migrateBucket returns the bucket of limit to that keeps the usage of from. It also
// converts the charges of open reservations.
func (p *partition) migrateBucket(rec *record, from, to *limit, b bucket, t *timeline, now Time) bucket {
	if from == to {
		return b
	}
	oldRing := p.ringOf(from, b, now)
	next, newRing := from.migrateTo(to, b, oldRing, now)
	switch {
	case from.Algorithm != to.Algorithm:
		if oldRing != nil {
			p.rings.free(uint32(b.lo))
		}
		if newRing != nil {
			ringID, stored := p.rings.alloc()
			*stored = *newRing
			next.lo = uint64(ringID)
		}
		*t = timeline{}
		p.eachPendingCharge(rec, to.bucketID, func(c *charge) {
			if c.at = to.currentPeriod(next, now); to.Algorithm == TokenBucket {
				c.at = t.addMark(next.level())
			}
		})
	case from.Algorithm == TokenBucket && from.window != to.window:
		t.rescale(func(w wide) wide { return rescale(w, from.window, to.window) })
	case from.Algorithm == SlidingWindow && from.sub != to.sub:
		p.eachPendingCharge(rec, to.bucketID, func(c *charge) { c.at = from.remapSubWindow(to, c.at, now) })
	case from.Algorithm == FixedWindow && next.hi != b.hi:
		p.eachPendingCharge(rec, to.bucketID, func(c *charge) {
			if c.at == b.hi {
				c.at = next.hi
			}
		})
	}
	return next
}

// migrateTo returns the bucket of limit to that keeps the usage of l, as of now. If the
// algorithm stays the same, a ring is changed in place. If it changes, the usage
// counts as if it were charged now.
func (l *limit) migrateTo(to *limit, b bucket, r *ring, now Time) (bucket, *ring) {
	switch {
	case l.Algorithm != to.Algorithm:
		used := l.used(b, r)
		b, r = bucket{}, nil
		to.advance(&b, nil, 0, now)
		if to.Algorithm == SlidingWindow {
			r = &ring{head: floorDiv(now.Mono, to.sub)}
		}
		to.charge(&b, r, used)
	case to.Algorithm == TokenBucket && l.window != to.window:
		b.setLevel(rescale(b.level(), l.window, to.window))
	case to.Algorithm == SlidingWindow && l.sub != to.sub && r != nil:
		r.remap(floorDiv(now.Mono, to.sub), func(k int64) int64 { return l.remapSubWindow(to, k, now) })
	case to.Algorithm == FixedWindow && (l.Calendar != to.Calendar || l.window != to.window):
		b.hi = to.windowAt(now.Wall).end
	}
	return b, r
}

// remapSubWindow returns the sub-window of limit to for charges in sub-window k of l.
func (l *limit) remapSubWindow(to *limit, k int64, now Time) int64 {
	return floorDiv(min((k+1)*l.sub-1, now.Mono), to.sub)
}

// rescale converts a level from the units x ns of one window to those of another. It
// rounds towards more usage.
func rescale(w wide, from, to int64) wide {
	if w.negative() {
		units, rest := w.neg().divFloor(from)
		part, _ := mulWide(rest, to).divFloor(from)
		return mulWide(units, to).add(wide{0, uint64(part)}).neg()
	}
	units, rest := w.divFloor(from)
	return mulWide(units, to).add(wide{0, uint64(mulWide(rest, to).divCeil(from))})
}
