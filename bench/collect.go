// SPDX-License-Identifier: Apache-2.0

package bench

import "time"

// collector looks at the recorder whenever an interval is over.
type collector struct {
	run      *running
	progress func(Interval)

	stop, done       chan struct{}
	next             int // the slot that is not harvested yet
	points           []Interval
	cpuBegin, cpuEnd time.Duration // of this process, around the measured part
}

func newCollector(r *running, progress func(Interval)) *collector {
	return &collector{run: r, progress: progress, stop: make(chan struct{}), done: make(chan struct{})}
}

// collect harvests intervals until finish is called or the measured part ends.
func (c *collector) collect() {
	defer close(c.done)
	w := &c.run.recorder.window
	if w.warm == 0 {
		c.cpuBegin = cpuTime()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for w.begin(c.next) < w.until() {
		end := min(w.begin(c.next+1), w.until())
		timer.Reset(end - c.run.now())
		select {
		case <-timer.C:
		case <-c.stop:
			return
		}
		if c.next+1 == w.warm {
			c.cpuBegin = cpuTime()
		}
		c.harvest(end)
	}
}

// harvest closes the next interval, which lasted until end.
func (c *collector) harvest(end time.Duration) {
	w := &c.run.recorder.window
	counts, h := c.run.recorder.harvest(c.next)
	p := Interval{
		At: w.begin(c.next), Warmup: c.next < w.warm, Counts: counts,
		UnderWay: c.run.underWay.Load(), Held: int64(c.run.holder.len()),
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

// sent notes that all calls were sent.
func (c *collector) sent() { c.cpuEnd = cpuTime() }

// finish harvests what is left of the measured part, which is over by now.
func (c *collector) finish() {
	close(c.stop)
	<-c.done
	w := &c.run.recorder.window
	for end := w.until(); w.begin(c.next) < end; {
		c.harvest(min(w.begin(c.next+1), end))
	}
	if c.cpuBegin == 0 {
		c.cpuBegin = c.cpuEnd // the measured part never began
	}
}

// series are the measured intervals of all, with the final counts.
func series(w *window, points []Interval, counts []Counts) []Interval {
	var list []Interval
	for i, p := range points {
		end := min(p.At+p.Length, w.until())
		if i < w.warm || p.At >= end {
			continue // the end may have come forward since
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
