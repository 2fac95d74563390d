// SPDX-License-Identifier: Apache-2.0

package overload

import "time"

// Recent counts what happened in the last minute, in steps of ten seconds: a sum has what
// happened in the last 60 to 70 s. The zero value is for use. It is not safe for
// concurrent use.
type Recent struct {
	counts [recentSteps]int64
	last   int64 // the step that was counted in last, since the time 0
}

const (
	recentStep  = int64(10 * time.Second)
	recentSteps = 7
)

// Add counts n at a time, in nanoseconds. Times do not decrease.
func (r *Recent) Add(now, n int64) {
	r.forget(now)
	r.counts[r.last%recentSteps] += n
}

// Sum returns what was counted in the last minute.
func (r *Recent) Sum(now int64) (sum int64) {
	r.forget(now)
	for _, n := range r.counts {
		sum += n
	}
	return sum
}

func (r *Recent) forget(now int64) {
	step := max(now, 0) / recentStep
	for gone := min(step-r.last, recentSteps); gone > 0; gone-- {
		r.counts[(step-gone+1)%recentSteps] = 0
	}
	r.last = max(r.last, step)
}
