// SPDX-License-Identifier: Apache-2.0

package limiter

// entry writes an id entry with its charges and its reservation. The item has a length,
// because it is read after all records, which it refers to.
func (s *snapshot) entry(entry *idEntry) {
	s.useTier(entry.tier)
	for i := range int(entry.chargeCount) {
		s.useLimit(s.shard.engine.catalog.limit(s.shard.chargeAt(entry, i).limit))
	}
	s.item(tagID)
	lengthAt := len(s.buf)
	s.buf = append(s.buf, 0, 0, 0, 0)
	s.fixed(entry.id[0])
	s.fixed(entry.id[1])
	s.fixed(entry.body)
	s.int(entry.due - s.now.Mono)
	s.uint(uint64(entry.outcome))
	s.uint(uint64(entry.status))
	s.int(int64(entry.binding))
	s.uint(uint64(entry.tier))
	s.fixed(entry.version)
	s.int(entry.granted)
	if s.bool(entry.reservationID != 0); entry.reservationID != 0 {
		s.reservation(s.shard.reservations.at(entry.reservationID))
	}
	s.uint(uint64(entry.chargeCount))
	for i := range int(entry.chargeCount) {
		s.charge(entry, s.shard.chargeAt(entry, i))
	}
	s.setLength(lengthAt)
}

func (s *snapshot) reservation(res *reservation) {
	s.fixed(res.keyHash)
	s.fixed(res.finalDigest)
	s.bool(res.rates.Priced)
	for _, n := range [...]int64{res.ttl, res.input, res.progress.input, res.progress.cached, res.progress.output} {
		s.int(n)
	}
	for _, n := range res.rates.numbers() {
		s.int(*n)
	}
}

// numbers lists the numeric fields of the rates.
func (r *Rates) numbers() [6]*int64 {
	return [...]*int64{&r.InputPrice, &r.CachedInputPrice, &r.OutputPrice, &r.Weights.Input, &r.Weights.CachedInput, &r.Weights.Output}
}

// charge writes a charge. Its period is needed only while the charge may change.
func (s *snapshot) charge(entry *idEntry, c *charge) {
	s.uint(uint64(c.limit))
	s.uint(uint64(c.scopeEnd))
	s.bool(c.exceeded)
	for _, n := range [...]int64{c.estimate, c.charged, c.dropped, c.remaining, c.reset} {
		s.int(n)
	}
	s.uint(uint64(c.handle))
	if !c.pinsRecord(entry) {
		return
	}
	at := c.at
	if rec, pos, ok := s.shard.recordOf(entry, c, ""); ok {
		if l := s.shard.engine.catalog.schema(rec.schema).limits[pos]; l.Algorithm == SlidingWindow {
			at = s.age(l, at)
		}
	}
	s.int(at)
}
