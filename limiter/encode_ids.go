// SPDX-License-Identifier: Apache-2.0

package limiter

// entry writes an id entry with its reservation. The item has a length, because it is
// read after all records, which it refers to.
func (s *stateEncoder) entry(entry *idEntry) {
	p := s.p
	if entry.isReservation() {
		s.useTier(p.terms.at(entry.terms()))
		var it chargeIterator
		for it.start(p, entry, ""); it.next(); {
			s.useLimit(p.engine.catalog.limit(it.charge.limit))
		}
	}
	s.item(tagID)
	lengthAt := len(s.buf)
	s.buf = append(s.buf, 0, 0, 0, 0)
	s.fixed(p.accounts.at(entry.account()).root)
	s.fixed(entry.hash)
	s.fixed(uint64(entry.more)<<32 | uint64(entry.body))
	s.int(entry.due - s.now.Mono)
	s.uint(uint64(entry.state()))
	s.bool(entry.is(flagPermanent))
	switch {
	case entry.isReservation():
		s.reservation(entry)
	case entry.state() == idCheck:
		s.int(entry.tokens())
		s.int(entry.spend())
		s.uint(uint64(entry.attempts()))
	default:
		s.int(entry.value[0])
		s.int(entry.value[1])
	}
	s.setLength(lengthAt)
}

func (s *stateEncoder) reservation(entry *idEntry) {
	p := s.p
	res := p.reservations.at(entry.reservation())
	terms := p.terms.at(entry.terms())
	s.uint(s.useTier(terms))
	s.fixed(terms.version)
	// One number, which earlier versions read if nothing is estimated or a slice.
	s.uint(uint64(boolInt(entry.is(flagDegraded)) | boolInt(res.estimated)<<1 | boolInt(res.slice)<<2))
	s.int(entry.granted())
	s.fixed(res.keyHash)
	s.fixed(uint64(res.ttl))
	for _, tag := range res.attempts {
		s.uint(uint64(tag))
	}
	for _, n := range [...]int64{res.input, res.progress.input, res.progress.cached, res.progress.output} {
		s.int(n)
	}
	s.bool(terms.Priced)
	for _, n := range terms.numbers() {
		s.int(*n)
	}
	s.uint(uint64(res.count))
	var it chargeIterator
	for it.start(p, entry, ""); it.next(); {
		s.charge(&it)
	}
	s.extras(entry)
}

// extras writes what few reservations have, and labels. Without them, the item is that of
// versions that know none.
func (s *stateEncoder) extras(entry *idEntry) {
	terms, x := s.p.terms.at(entry.terms()), s.p.extrasOf(entry)
	labelled := s.p.reservations.at(entry.reservation()).label != 0
	if x == (extras{}) && terms.hasUsualExtras() && !labelled {
		return
	}
	for _, n := range x.numbers() {
		s.int(*n)
	}
	for _, n := range terms.extraNumbers() {
		s.int(*n)
	}
	s.string(terms.ServiceTiers.table)
	if labelled {
		s.buf = s.p.appendLabelOf(s.buf, entry) // the rest of the item
	}
}

// charge writes a charge. Its period is needed only while the charge may change.
func (s *stateEncoder) charge(it *chargeIterator) {
	c := it.charge
	s.uint(uint64(c.limit))
	s.uint(uint64(it.block.scopeEnd[it.i]) + 1)
	s.bool(c.exceeded())
	for _, n := range [...]int64{c.estimate, c.charged, c.dropped} {
		s.int(n)
	}
	s.uint(uint64(c.handle))
	if !it.pins {
		return
	}
	at := c.at
	if it.bucket != nil && it.limit.Algorithm == SlidingWindow {
		at = s.age(it.limit, at)
	}
	s.int(at)
}
