// SPDX-License-Identifier: Apache-2.0

package limiter

// exceedsCapacity reports whether an enforced limit could not admit the request as it was
// assessed last even if nothing was used.
func (d *Decision) exceedsCapacity() bool {
	for i := range d.assessments {
		if a := &d.assessments[i]; a.reason == ExceedsCapacity && !a.limit.Shadow {
			return true
		}
	}
	return false
}

// reduceEstimate lowers r.InputTokens, an estimate, to the most that every enforced limit
// could admit if nothing was used, together with the requested output, but not below
// r.KnownInput. Only if that output
// alone is too much, it counts on less of it: on the least that may be granted where the
// limits are set to degrade, and on less than the default if the request has no bound. It
// returns the output to request. If nothing helps, r stays as it is.
func (p *partition) reduceEstimate(d *Decision, r *Request, requested int64) (int64, error) {
	estimate := r.InputTokens
	var err error
	var shrink bool
	exceeds := func(input, output int64) bool {
		r.InputTokens = input
		var e error
		if _, shrink, e = p.assess(d, r, output, true); err == nil {
			err = e
		}
		return err != nil || d.exceedsCapacity()
	}
	least := min(estimate, max(1, r.KnownInput)) // a call with input stays one, which needs a price
	output := requested
	if exceeds(least, requested) {
		if shrink {
			output = r.leastGrant(requested)
		} else if r.OutputTokens < 0 {
			requested = largest(0, requested, func(n int64) bool { return !exceeds(least, n) })
			output = requested
		}
	}
	if exceeds(least, output) {
		r.InputTokens = estimate
		return requested, err
	}
	r.InputTokens = largest(least, estimate, func(n int64) bool { return !exceeds(n, output) })
	return requested, err
}

// largest returns the largest number from lo to hi for which ok is true, or lo. ok must not
// become true again above a number for which it is false.
func largest(lo, hi int64, ok func(int64) bool) int64 {
	for lo < hi {
		if mid := lo + (hi-lo+1)/2; ok(mid) {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}
