// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// patience is how far the pacer may be behind when the measured part ends. What
// is still to be sent then is dropped.
const patience = time.Second

// pacer hands calls out when they are due.
type pacer struct {
	planner  *planner
	pool     *pool
	recorder *recorder
	shard    *shard
	sleep    sleeper

	interval time.Duration

	lateness *hdrhistogram.Histogram // of the measured part
	missed   int64
}

// run hands out the whole schedule. It returns when the time is over or
// sleep.stop is closed, or true when the schedule ends more than an interval
// before the time.
func (p *pacer) run() (ended bool) {
	var now, last time.Duration
	for b := range p.planner.batches {
		for i := range b.items {
			c := &b.items[i]
			if now = time.Since(p.sleep.base); now < c.due {
				var ok bool
				if now, ok = p.sleep.until(c.due); !ok {
					return false
				}
			} else if p.stopped() {
				return false
			}
			if p.planner.end != Never && now > p.planner.end+patience {
				p.missed = int64(len(b.items)-i) + p.planner.skip()
				p.recorder.missed(p.shard, c.due, p.missed)
				return false
			}
			p.hand(c, now)
			last = c.due
		}
	}
	if p.planner.end == Never || (p.planner.short && p.planner.end-last > p.interval) {
		return true
	}
	p.sleep.until(p.planner.end) // a stop ends it early, too
	return false
}

func (p *pacer) hand(c *planned, now time.Duration) {
	if p.recorder.window.holds(c.due) {
		recordIn(p.lateness, now-c.due)
	}
	p.recorder.offered(p.shard, c.due, !p.pool.begin(c))
}

func (p *pacer) stopped() bool {
	select {
	case <-p.sleep.stop:
		return true
	default:
		return false
	}
}
