// SPDX-License-Identifier: Apache-2.0

package limiter

// Tariff says what reserves cost each limit of a slice, by the policy of the owner when it
// lent the slice: see [Loan].Tariff. Policies that change later do not change it. Its methods
// are safe for concurrent use, and Reserve and Settle do not allocate unless they fail.
type Tariff struct {
	rates         Rates
	tier          string
	version       uint64
	defaultOutput int64
	boundOutput   bool
	limits        []tariffLimit
}

// tariffLimit is what the cost of a reserve depends on in one limit.
type tariffLimit struct {
	dimension Dimension
	dim       uint8
	estimate  Estimate // of the level of the limit
}

// set makes t the tariff of the limits that are assembled in d for a request.
func (t *Tariff) set(p *Plan, d *Decision) {
	t.rates, t.tier, t.version, t.defaultOutput, t.boundOutput = p.Rates, p.Tier, p.Version, p.DefaultOutput, p.BoundOutput
	t.limits = t.limits[:0]
	for i := range d.assessments {
		a := &d.assessments[i]
		t.limits = append(t.limits, tariffLimit{a.limit.Dimension, a.limit.dim, p.Levels[a.level].Estimate})
	}
}

// Limits returns how many limits costs have, in the order of [Decision].Limits.
func (t *Tariff) Limits() int { return len(t.limits) }

// Tier returns the tier of the policy, as [Decision].Tier.
func (t *Tariff) Tier() string { return t.tier }

// PolicyVersion returns the version of the policy, as [Decision].PolicyVersion.
func (t *Tariff) PolicyVersion() uint64 { return t.version }

// BoundOutput is [Plan].BoundOutput.
func (t *Tariff) BoundOutput() bool { return t.boundOutput }

// Reserve fills costs, of Limits entries, with what r would be charged as a reserve that is
// allowed in full: that is what [Engine.Reserve] charges. It returns the output that is
// granted per choice. r.Plan is not used. The error is a [*FieldError].
func (t *Tariff) Reserve(r *Request, costs []int64) (granted int64, err error) {
	if granted = r.OutputTokens; granted < 0 {
		granted = t.defaultOutput
	}
	var v vector
	for i := range t.limits {
		l := &t.limits[i]
		if i == 0 || l.estimate != t.limits[i-1].estimate {
			if err := r.cost(&t.rates, l.estimate, granted, true, &v); err != nil {
				return 0, err
			}
		}
		if l.dim == dimCustom {
			costs[i], _ = customCost(r.Costs, l.dimension)
		} else {
			costs[i] = v[l.dim]
		}
	}
	return granted, nil
}

// Settle fills costs, of Limits entries, with what r, which was charged reserved, is charged
// after usage u: that is what [Engine.Settle] sets its charges to if u is the first usage that
// is reported. u is final as a rule; otherwise no cost is less than what was reserved. The key
// and the id of u are not used. It returns what r has used, as [Engine.Usage] counts it. The
// error is a [*FieldError].
func (t *Tariff) Settle(r *Request, u *Usage, reserved, costs []int64) (Used, error) {
	n, x, err := u.amounts(r.InputTokens, amounts{}, extras{})
	if err != nil {
		return Used{}, err
	}
	var v vector
	if err := t.rates.cost(n, x, r.basis(&t.rates, true).after(u, t.rates.ServiceTiers), &v); err != nil {
		return Used{}, err
	}
	for i := range t.limits {
		l := &t.limits[i]
		costs[i] = u.target(l.dim, l.dimension, reserved[i], &v)
	}
	return usedBy(n, &v, &t.rates), nil
}
