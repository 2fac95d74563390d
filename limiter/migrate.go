// SPDX-License-Identifier: Apache-2.0

package limiter

// fit makes a record, already advanced to now, keep state for the limits of
// want, and returns where they are. What was used stays used: a limit of the
// same dimension and name takes over its predecessor's state, and limits that
// want lacks stay as long as something of them is used.
func (p *partition) fit(no uint32, rec *record, want *schema, now Time) *view {
	have := p.engine.catalog.schema(rec.schema)
	if v := p.engine.catalog.view(have, want); v != nil {
		return v
	}
	next := append([]*limit(nil), want.limits...)
	for i, l := range have.limits {
		s := *p.slotAt(rec, i)
		used := p.line(rec, i) != nil || !l.idle(s, p.ringOf(l, s, now))
		if used && want.find(l.slot) < 0 {
			next = append(next, l)
		}
	}
	slots := make([]slot, len(next))
	times := make([]timeline, len(next))
	for i, l := range have.limits {
		s, t := *p.slotAt(rec, i), p.line(rec, i)
		j := (&schema{limits: next}).find(l.slot)
		if j < 0 {
			if l.Algorithm == SlidingWindow && s.lo != 0 {
				p.rings.free(uint32(s.lo))
			}
			continue
		}
		if t != nil {
			times[j] = *t
		}
		slots[j] = p.convert(no, l, next[j], s, &times[j], now)
	}
	merged := p.engine.catalog.schemaOf(next)
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
func (p *partition) convert(no uint32, from, to *limit, s slot, t *timeline, now Time) slot {
	switch {
	case from == to || from.Algorithm == Concurrency:
		return s
	case from.Algorithm != to.Algorithm:
		return p.changeAlgorithm(no, from, to, s, t, now)
	case from.Algorithm == TokenBucket && from.window != to.window:
		scale := func(w wide) wide { return rescale(w, from.window, to.window) }
		t.rescale(scale)
		s.setLevel(scale(s.level()))
	case from.Algorithm == SlidingWindow && from.sub != to.sub && s.lo != 0:
		head := floorDiv(now.Mono, to.sub)
		move := func(k int64) int64 { return floorDiv(min((k+1)*from.sub-1, now.Mono), to.sub) }
		p.rings.at(uint32(s.lo)).remap(head, move)
		p.eachTouch(no, to.slot, func(x *touch) { x.at = move(x.at) })
	case from.Algorithm == FixedWindow && (from.Calendar != to.Calendar || from.window != to.window):
		end := to.windowAt(now.Wall).end
		p.eachTouch(no, to.slot, func(x *touch) {
			if x.at == s.hi {
				x.at = end
			}
		})
		s.hi = end
	}
	return s
}

// changeAlgorithm starts the new algorithm with what the old one had in use,
// as if it had been charged now.
func (p *partition) changeAlgorithm(no uint32, from, to *limit, s slot, t *timeline, now Time) slot {
	used := from.used(s, p.ringOf(from, s, now))
	if from.Algorithm == SlidingWindow && s.lo != 0 {
		p.rings.free(uint32(s.lo))
	}
	*t = timeline{}
	n := slot{}
	to.advance(&n, nil, 0, now)
	var r *ring
	if used > 0 {
		r = p.ensureRing(to, &n, now)
		to.charge(&n, r, used)
	}
	t.begin()
	p.eachTouch(no, to.slot, func(x *touch) { x.at = to.place(n, r, t) })
	return n
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

// place returns where in time a charge that comes now is found again.
func (l *limit) place(s slot, r *ring, t *timeline) int64 {
	switch {
	case l.Algorithm == TokenBucket:
		return int64(t.open(s.level()))
	case l.Algorithm == FixedWindow:
		return s.hi
	case r != nil:
		return r.head
	}
	return 0
}
