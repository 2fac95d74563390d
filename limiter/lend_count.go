// SPDX-License-Identifier: Apache-2.0

package limiter

// LendCount is [Engine.Lend] for hits on a counter, which Count has just counted with result d:
// it lends hits of the same window, if that is open, with the limit of q as the capacity.
// [Engine.Return] takes back what was not spent of it, if the window is still the same; a slice
// that is not returned stays counted in full. Loan.Amounts has one amount, the hits, and Calls
// says how many calls like q that is. Nothing is lent to clients, or if q was over the limit,
// forced, gave hits back or had none.
//
// If a slice was lent, d gets Change and Large; its other fields stay.
func (e *Engine) LendCount(now Time, q *CountRequest, l *Loan, d *CountResult) (ok bool, err error) {
	s, root := e.lock(q.Key)
	defer s.Unlock()
	return s.lendCount(now, root, q, l, d)
}

func (p *partition) lendCount(now Time, root uint64, q *CountRequest, l *Loan, d *CountResult) (ok bool, err error) {
	if now, err = p.beginLoan(now, root, l.ID); err != nil {
		return false, err
	}
	recordID, rec := p.find(q.Key, string(q.Window.appendName(nil)))
	if rec == nil || q.Hits <= 0 || q.GiveBack || q.Force {
		return false, nil
	}
	p.advance(rec, now)
	if now.Wall >= rec.buckets[0].hi || rec.buckets[0].hi != d.End {
		return false, nil
	}
	l0 := p.engine.catalog.counter.limits[0]
	limit := &limit{Limit: l0.Limit, id: l0.id, bucketID: l0.bucketID, dim: l0.dim, capacity: q.Limit}
	plan := Plan{Count: 1}
	plan.Levels[0].End = len(q.Key)
	r := Request{Key: q.Key, Plan: &plan}
	assessed := Decision{assessments: []assessment{{limit: limit, bucket: &rec.buckets[0], rec: rec, recordID: recordID, cost: q.Hits}}}
	l.Reserve = false
	entry := p.beginSlice(now, root, &r, l, &assessed)
	if entry == nil {
		return false, nil
	}
	p.chargeSlice(now, entry, &r, l, &assessed)
	d.Change, d.Large = assessed.Change, assessed.Large
	return true, nil
}

// lentOf returns what is lent of the window b of a counter.
func (p *partition) lentOf(rec *record, b bucket) (lent uint64) {
	if rec == nil {
		return 0
	}
	p.eachPendingCharge(rec, p.engine.catalog.counter.limits[0].bucketID, func(c *charge) {
		if c.at == b.hi {
			lent += uint64(c.charged)
		}
	})
	return lent
}
