// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// maxLag is how far behind schedule the pacer may be at the end of the run. The
// calls that are still to be sent then are dropped.
const maxLag = time.Second

// pacer dispatches calls when they are due.
type pacer struct {
	planner  *planner
	pool     *pool
	recorder *recorder
	shard    *shard
	sleeper  sleeper

	interval time.Duration

	lateness *hdrhistogram.Histogram // of the measured part
	missed   int64
}

// run dispatches the whole schedule. It returns false when the run time is over or
// sleeper.stop is closed, and true if the schedule ends more than an interval
// before the run time.
func (p *pacer) run() (ended bool) {
	var now, last time.Duration
	for b := range p.planner.batches {
		for i := range b.items {
			c := &b.items[i]
			if now = time.Since(p.sleeper.start); now < c.due {
				var ok bool
				if now, ok = p.sleeper.until(c.due); !ok {
					return false
				}
			} else if p.stopped() {
				return false
			}
			if p.planner.end != Never && now > p.planner.end+maxLag {
				p.missed = int64(len(b.items)-i) + p.planner.skip()
				p.recorder.countMissed(p.shard, c.due, p.missed)
				return false
			}
			p.dispatch(c, now)
			last = c.due
		}
	}
	if p.planner.end == Never || (p.planner.exhausted && p.planner.end-last > p.interval) {
		return true
	}
	p.sleeper.until(p.planner.end) // or until stop
	return false
}

func (p *pacer) dispatch(c *planned, now time.Duration) {
	if p.recorder.window.contains(c.due) {
		recordValue(p.lateness, now-c.due)
	}
	p.recorder.countOffered(p.shard, c.due, !p.pool.submit(c))
}

func (p *pacer) stopped() bool {
	select {
	case <-p.sleeper.stop:
		return true
	default:
		return false
	}
}
