// SPDX-License-Identifier: Apache-2.0

package line

import (
	"math"

	"github.com/bucketring/bucketring/limiter"
)

// AtLimit is what waits at a limit.
type AtLimit struct {
	Scope     string
	Dimension limiter.Dimension
	Name      string
	Model     string // of a limit per model: "*" for calls without one
	Calls     [3]int // interactive, standard, batch
	// Since is when the call arrived that has waited longest, see [Call].Arrived.
	Since int64
}

// EachLimit calls f for each limit at which calls wait, in no order. It reads each call once:
// 10,000 take less than a millisecond. f must not change the line, nor keep at.
func (l *Line) EachLimit(f func(at *AtLimit)) {
	since := make([]int64, len(l.queues))
	for m := range since {
		since[m] = math.MaxInt64
	}
	for n := int32(1); n <= l.used; n++ {
		w := l.at(n)
		if w.queue != 0 {
			since[w.queue] = min(since[w.queue], w.arrived)
		}
	}
	var at AtLimit
	for m, q := range l.queues {
		if q == nil {
			continue
		}
		at = AtLimit{Scope: q.id.scope, Dimension: q.id.dimension, Name: q.id.name, Model: q.id.model, Since: since[m]}
		for class := range q.lanes {
			at.Calls[class], _ = l.total(q.lanes[class].root)
		}
		f(&at)
	}
}
