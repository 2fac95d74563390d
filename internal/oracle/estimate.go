// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"sort"

	"github.com/bucketring/bucketring/limiter"
)

// exceedsCapacity reports whether an enforced limit denies its cost whatever is used.
func exceedsCapacity(assessments []*assessment) bool {
	for _, a := range assessments {
		if !a.limit.Shadow && a.reason == limiter.ExceedsCapacity {
			return true
		}
	}
	return false
}

// reduceEstimate lowers the input of r until no enforced limit denies it whatever is used.
// If the output alone is too much, that is lowered: for the search to the least grant if
// the limits degrade, or for good if the request is unbounded. If nothing helps, r stays
// as it is.
func (o *Oracle) reduceEstimate(now limiter.Time, r *limiter.Request, unbounded bool) {
	at := func(input, output int64) []*assessment {
		t := *r
		t.InputTokens, t.OutputTokens = input, output
		list := o.assess(&t, true)
		setCosts(now, list, output, true)
		return list
	}
	// highest returns the highest number from low to high that is not too much.
	highest := func(low, high int64, tooMuch func(int64) bool) int64 {
		n := sort.Search(int(high-low)+1, func(i int) bool { return tooMuch(low + int64(i)) })
		return max(low, low+int64(n)-1)
	}
	low, full := min(r.InputTokens, max(r.KnownInput, 1)), r.OutputTokens
	output, requested := full, full
	if list := at(low, full); exceedsCapacity(list) {
		switch {
		case shrinkable(now, list):
			output = min((max(minOutput(r, full), 1)+15)/16*16, full)
		case unbounded:
			output = highest(0, full, func(n int64) bool { return exceedsCapacity(at(low, n)) })
			requested = output
		}
	}
	if exceedsCapacity(at(low, output)) {
		if unbounded {
			r.OutputTokens = requested
		}
		return
	}
	r.InputTokens = highest(low, r.InputTokens, func(n int64) bool { return exceedsCapacity(at(n, output)) })
	r.OutputTokens = requested
}
