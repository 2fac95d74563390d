// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"time"

	"github.com/bucketring/bucketring/internal/cputime"
)

// collector closes the intervals of a run: it reads the recorder at the end of each.
type collector struct {
	state    *runState
	progress func(Interval)

	stop, done       chan struct{}
	next             int // index of the first interval that is not collected yet
	points           []Interval
	cpuBegin, cpuEnd time.Duration // CPU time of this process at the begin and end of the measured part
}

func newCollector(r *runState, progress func(Interval)) *collector {
	return &collector{state: r, progress: progress, stop: make(chan struct{}), done: make(chan struct{})}
}

// run collects intervals until the measured part ends or finish is called.
func (c *collector) run() {
	defer close(c.done)
	w := &c.state.recorder.window
	if w.warmupIntervals == 0 {
		c.cpuBegin = cputime.Used()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for w.startOf(c.next) < w.endTime() {
		end := min(w.startOf(c.next+1), w.endTime())
		timer.Reset(end - c.state.now())
		select {
		case <-timer.C:
		case <-c.stop:
			return
		}
		if c.next+1 == w.warmupIntervals {
			c.cpuBegin = cputime.Used()
		}
		c.collectInterval(end)
	}
}

// collectInterval closes the next interval, which ended at end.
func (c *collector) collectInterval(end time.Duration) {
	w := &c.state.recorder.window
	counts, h := c.state.recorder.collectInterval(c.next)
	p := Interval{
		At: w.startOf(c.next), Warmup: c.next < w.warmupIntervals, Counts: counts,
		InFlight: c.state.inFlight.Load(), Held: int64(c.state.scheduler.len()),
	}
	p.Length = end - p.At
	v := h.ValueAtPercentilesSlice([]float64{50, 99})
	p.P50, p.P99 = time.Duration(v[0]), time.Duration(v[1])
	c.next++
	c.points = append(c.points, p)
	if c.progress != nil {
		c.progress(p)
	}
}

// sendingDone is called when all calls were sent.
func (c *collector) sendingDone() { c.cpuEnd = cputime.Used() }

// finish collects the remaining intervals. The measured part is over.
func (c *collector) finish() {
	close(c.stop)
	<-c.done
	w := &c.state.recorder.window
	for end := w.endTime(); w.startOf(c.next) < end; {
		c.collectInterval(min(w.startOf(c.next+1), end))
	}
	if c.cpuBegin == 0 {
		c.cpuBegin = c.cpuEnd // the measured part never began
	}
}

// series returns the measured intervals with their final counts.
func series(w *window, points []Interval, counts []Counts) []Interval {
	var list []Interval
	for i, p := range points {
		end := min(p.At+p.Length, w.endTime())
		if i < w.warmupIntervals || p.At >= end {
			continue // the warm-up, or the measured part ended earlier than planned
		}
		p.Length = end - p.At
		p.Counts = Counts{}
		if i < len(counts) {
			p.Counts = counts[i]
		}
		list = append(list, p)
	}
	return list
}
