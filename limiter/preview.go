// SPDX-License-Identifier: Apache-2.0

package limiter

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
