// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// lagAtEnd is how far behind schedule the pacer may be at the end of the run. The
// calls that are still to be sent then are dropped.
const lagAtEnd = time.Second

// clockEvery is how many calls that are due at once are dispatched without a look at the
// clock, which costs as much as the dispatch of one.
const clockEvery = 8

// pacer dispatches calls when they are due.
type pacer struct {
	planner  *planner
	pool     *pool
	recorder *recorder
	shard    *shard
	sleeper  sleeper

	interval time.Duration
	maxLag   time.Duration // see [Options.MaxLag]

	lateness *hdrhistogram.Histogram // of the measured part
	missed   int64
	kept     int64         // calls that were sent in the measured part
	skipTo   time.Duration // calls that were due before it are missed
}

// run dispatches the whole schedule. It returns false when the run time is over or
// sleeper.stop is closed, and true if the schedule ends more than an interval
// before the run time.
func (p *pacer) run() (ended bool) {
	var now, last time.Duration
	for b := range p.planner.batches {
		for i := range b.items {
			c := &b.items[i]
			if i%clockEvery == 0 || now < c.due {
				now = time.Since(p.sleeper.start)
			}
			if now < c.due {
				var ok bool
				if now, ok = p.sleeper.until(wakeFor(b.items[i:])); !ok {
					return false
				}
			} else if i%clockEvery == 0 && p.stopped() {
				return false
			}
			if p.maxLag > 0 && now-c.due > p.maxLag {
				// More is skipped than what is too late: otherwise every call would be as
				// late as allowed. Not all is skipped that is due: otherwise a pacer that the
				// system lets run now and then would send nothing.
				p.skipTo = now - p.maxLag/2
			}
			if c.due < p.skipTo {
				p.miss(c.due, 1)
				last = c.due
				continue
			}
			if p.planner.end != Never && now > p.planner.end+lagAtEnd {
				p.miss(max(c.due, p.recorder.window.from), int64(len(b.items)-i)+p.planner.skip())
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

// wakeFor returns when to wake up to dispatch calls, of which there is at least one.
func wakeFor(calls []planned) time.Duration {
	if last := min(sleepCalls, len(calls)) - 1; calls[last].due-calls[0].due < coarseSleep*time.Duration(last)/sleepCalls {
		return calls[last].due
	}
	return calls[0].due
}

func (p *pacer) dispatch(c *planned, now time.Duration) {
	if p.recorder.window.contains(c.due) {
		recordValue(p.lateness, now-c.due)
	}
	sent := p.pool.submit(c)
	if sent && p.recorder.window.contains(now) {
		p.kept++
	}
	p.recorder.countOffered(p.shard, c.due, !sent)
}

// miss counts n calls that are not sent, the first of which was due at due.
func (p *pacer) miss(due time.Duration, n int64) {
	if due >= p.recorder.window.from {
		p.missed += n
	}
	p.recorder.countMissed(p.shard, due, n)
}

func (p *pacer) stopped() bool {
	select {
	case <-p.sleeper.stop:
		return true
	default:
		return false
	}
}
