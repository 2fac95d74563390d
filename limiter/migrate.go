// SPDX-License-Identifier: Apache-2.0

package limiter

// fit makes a record, already advanced to now, keep state for the limits of
// want, and returns where they are. What was used stays used: a limit of the
// same dimension and name takes over its predecessor's state, and limits that
// want lacks stay as long as something of them is used or reserved.
func (p *partition) fit(rec *record, want *schema, now Time) *view {
	have := p.engine.catalog.schema(rec.schema)
	if v := p.engine.catalog.view(have, want); v != nil {
		return v
	}
	next := append([]*limit(nil), want.limits...)
	for i, l := range have.limits {
		s := *p.slotAt(rec, i)
		used := rec.pins > 0 || !l.idle(s, p.ringOf(l, s, now))
		if used && want.find(l.slot) < 0 {
			next = append(next, l)
		}
	}
	merged := p.engine.catalog.schemaOf(next)
	slots := make([]slot, len(next))
	times := make([]timeline, len(next))
	for i, l := range have.limits {
		s, t := *p.slotAt(rec, i), p.line(rec, i)
		j := merged.find(l.slot)
		if j < 0 {
			if l.Algorithm == SlidingWindow && s.lo != 0 {
				p.rings.free(uint32(s.lo))
			}
			continue
		}
		if t != nil {
			times[j] = *t
		}
		slots[j] = p.convert(rec, l, next[j], s, &times[j], now)
	}
	p.reshape(rec, merged)
	for i := range next {
		*p.slotAt(rec, i) = slots[i]
		next[i].advance(p.slotAt(rec, i), nil, 0, now) // gives a fresh fixed window its end
	}
	p.setLines(rec, times)
	return p.engine.catalog.view(merged, want)
}

// convert returns the state of limit to that keeps what was used of from. The
// charges of open reservations move along.
func (p *partition) convert(rec *record, from, to *limit, s slot, t *timeline, now Time) slot {
	if from == to {
		return s
	}
	r := p.ringOf(from, s, now)
	next, nr := from.become(to, s, r, now)
	switch {
	case from.Algorithm != to.Algorithm:
		if r != nil {
			p.rings.free(uint32(s.lo))
		}
		if nr != nil {
			no, kept := p.rings.alloc()
			*kept = *nr
			next.lo = uint64(no)
		}
		t.begin()
		p.eachTouch(rec, to.slot, func(x *touch) {
			if x.at = to.when(next, now); to.Algorithm == TokenBucket {
				x.at = t.open(next.level())
			}
		})
	case from.Algorithm == TokenBucket && from.window != to.window:
		t.rescale(func(w wide) wide { return rescale(w, from.window, to.window) })
	case from.Algorithm == SlidingWindow && from.sub != to.sub:
		p.eachTouch(rec, to.slot, func(x *touch) { x.at = from.moved(to, x.at, now) })
	case from.Algorithm == FixedWindow && next.hi != s.hi:
		p.eachTouch(rec, to.slot, func(x *touch) {
			if x.at == s.hi {
				x.at = next.hi
			}
		})
	}
	return next
}

// become returns the state, as of now, of limit to that keeps what was used of
// l. Where the algorithm stays, a ring is changed in place; where it changes,
// what was used counts as if it had been charged now.
func (l *limit) become(to *limit, s slot, r *ring, now Time) (slot, *ring) {
	switch {
	case l.Algorithm != to.Algorithm:
		used := l.used(s, r)
		s, r = slot{}, nil
		to.advance(&s, nil, 0, now)
		if to.Algorithm == SlidingWindow {
			r = &ring{head: floorDiv(now.Mono, to.sub)}
		}
		to.charge(&s, r, used)
	case to.Algorithm == TokenBucket && l.window != to.window:
		s.setLevel(rescale(s.level(), l.window, to.window))
	case to.Algorithm == SlidingWindow && l.sub != to.sub && r != nil:
		r.remap(floorDiv(now.Mono, to.sub), func(k int64) int64 { return l.moved(to, k, now) })
	case to.Algorithm == FixedWindow && (l.Calendar != to.Calendar || l.window != to.window):
		s.hi = to.windowAt(now.Wall).end
	}
	return s, r
}

// moved returns the sub-window of limit to for what came in sub-window k.
func (l *limit) moved(to *limit, k int64, now Time) int64 {
	return floorDiv(min((k+1)*l.sub-1, now.Mono), to.sub)
}

// rescale converts a level from one window's units x ns to another's; a
// fraction of a nanosecond's refill counts as used.
func rescale(w wide, from, to int64) wide {
	if w.negative() {
		units, rest := w.neg().divFloor(from)
		part, _ := mulWide(rest, to).divFloor(from)
		return mulWide(units, to).add(wide{0, uint64(part)}).neg()
	}
	units, rest := w.divFloor(from)
	return mulWide(units, to).add(wide{0, uint64(mulWide(rest, to).divCeil(from))})
}

// setLines replaces the timelines of a record.
func (p *partition) setLines(rec *record, of []timeline) {
	live := 0
	for i := range of {
		live += of[i].live
	}
	if live == 0 {
		p.dropLines(rec)
		return
	}
	if rec.lines == 0 {
		rec.lines, _ = p.lines.alloc()
	}
	*p.lines.at(rec.lines) = lines{of: of, live: live}
}
