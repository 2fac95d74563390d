// SPDX-License-Identifier: Apache-2.0

package limiter

// rememberedIDs lists the entries of an account except forgotten ones: those in queues in
// their order, then those of live reservations.
type rememberedIDs struct {
	root    uint64
	entries []uint32
}

func (p *partition) rememberedIDs() []rememberedIDs {
	byAccount := make([]rememberedIDs, len(p.accounts.all))
	for account := p.accounts.next(0); account != 0; account = p.accounts.next(account) {
		a, list := p.accounts.at(account), &byAccount[account-1]
		list.root, list.entries = a.root, make([]uint32, 0, a.n)
		for _, q := range [...]idQueue{a.checks, a.ended} {
			for entryID := q.head; entryID != 0; entryID = p.entries.at(entryID).next {
				if p.entries.at(entryID).state() != idForgotten {
					list.entries = append(list.entries, entryID)
				}
			}
		}
	}
	for _, entryID := range p.leaseHeap {
		list := &byAccount[p.entries.at(entryID).account()-1]
		list.entries = append(list.entries, entryID)
	}
	used := byAccount[:0]
	for _, list := range byAccount {
		if len(list.entries) > 0 {
			used = append(used, list)
		}
	}
	return used
}

// ids writes the remembered ids of every root.
func (s *snapshotter) ids(lists []rememberedIDs) {
	s.uint(uint64(len(lists)))
	for _, list := range lists {
		s.fixed(list.root)
		s.uint(uint64(len(list.entries)))
		for _, entryID := range list.entries {
			s.entry(s.p.entries.at(entryID))
		}
	}
}

func (s *snapshotter) entry(entry *idEntry) {
	s.fixed(entry.hash)
	s.fixed(uint64(entry.more)<<32 | uint64(entry.body))
	s.int(entry.due - s.now.Mono)
	s.uint(uint64(entry.state()))
	if entry.isReservation() {
		s.reservation(entry)
		return
	}
	s.int(entry.value[0])
	s.int(entry.value[1])
}

func (s *snapshotter) reservation(entry *idEntry) {
	res := s.p.reservations.at(entry.reservation())
	s.uint(uint64(s.tiers[res.tierID()]))
	s.fixed(res.version)
	s.bool(entry.is(flagDegraded))
	s.int(entry.granted())
	s.fixed(res.keyHash)
	s.fixed(uint64(res.ttl))
	for _, n := range [...]int64{res.input, res.progress.input, res.progress.cached, res.progress.output} {
		s.int(n)
	}
	rates := s.p.rates.at(res.rates)
	s.bool(rates.Priced)
	for _, n := range rates.numbers() {
		s.int(*n)
	}
	n := s.p.chargeCount(entry)
	s.uint(uint64(n))
	for i := range n {
		s.charge(entry, i)
	}
}

// numbers lists the numeric fields of the rates.
func (r *Rates) numbers() [6]*int64 {
	return [...]*int64{&r.InputPrice, &r.CachedInputPrice, &r.OutputPrice, &r.Weights.Input, &r.Weights.CachedInput, &r.Weights.Output}
}

// charge writes a charge. Its period is needed only while the charge may change.
func (s *snapshotter) charge(entry *idEntry, i int) {
	block, j := s.p.chargeBlockOf(entry, i)
	c := &block.charges[j]
	s.uint(uint64(s.limits[c.limit]))
	s.uint(uint64(block.scopeEnd[j]) + 1)
	s.bool(c.exceeded())
	for _, n := range [...]int64{c.estimate, c.charged, c.dropped} {
		s.int(n)
	}
	recordNumber := 0 // 0 if there is no record
	if s.p.byHandle(c.handle) != nil {
		recordNumber = s.records[*s.p.handles.at(c.handle)]
	}
	s.uint(uint64(recordNumber))
	if !c.pinsRecord(entry) {
		return
	}
	at := c.at
	if rec, pos, ok := s.p.recordOf(entry, i, ""); ok {
		if l := s.p.engine.catalog.schema(rec.schema).limits[pos]; l.Algorithm == SlidingWindow {
			at = s.age(l, at)
		}
	}
	s.int(at)
}
