// SPDX-License-Identifier: Apache-2.0

package limiter

import "math"

// NextExpiry returns when the next lease ends in the partition of a key, on the clock of
// [Time].Mono, math.MaxInt64 if none runs. That may be the lease of another root or of a slice.
// From then on, the limits have what the lease gives back, without a call that says so.
func (e *Engine) NextExpiry(key string) int64 {
	s, _ := e.lock(key)
	defer s.Unlock()
	if s.records.closed || len(s.leaseHeap) == 0 {
		return math.MaxInt64
	}
	return s.entries.at(s.leaseHeap[0]).due
}

// Knows reports whether the id of r is known: r would be answered as before, or refused.
func (e *Engine) Knows(r *Request) bool {
	if r.ID == "" {
		return false
	}
	s, root := e.lock(r.Key)
	defer s.Unlock()
	if s.records.closed {
		return false
	}
	_, entry := s.findEntry(s.accounts.find(root), idKeyOf(root, r.ID))
	return entry != nil
}

// preview decides a request without changing more than time and due work change.
func (p *partition) preview(now Time, r *Request, reserve bool, d *Decision) error {
	if err := p.begin(d); err != nil {
		return err
	}
	if err := r.checkPriority(); err != nil {
		return err
	}
	now = p.tick(now)
	p.assemble(d, r, now)
	_, outcome, granted, err := p.decideCost(d, r, reserve)
	if err != nil {
		return err
	}
	d.Tier, d.PolicyVersion, d.Replayed = r.Plan.Tier, r.Plan.Version, false
	d.Outcome, d.Reason, d.RetryAfter, d.GrantedOutputTokens, d.Status = outcome, NoReason, 0, granted, NoStatus
	p.reportLimits(d, r, now)
	if outcome == Denied {
		d.GrantedOutputTokens = 0
		p.deny(d, now)
		return nil
	}
	d.Binding = d.tightest(reserve)
	return nil
}
