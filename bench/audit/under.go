// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"math"
	"slices"
)

// suspect is a charge that may have taken room, for a limit.
type suspect struct {
	sent    int64 // it took none before
	done    int64 // it was made by then, or never
	cost    int64 // until release
	settled int64
	release int64
}

// suspect adds to list what call c charges.
func (sc *scene) suspect(list []suspect, c *call, ch charges) []suspect {
	s := suspect{sent: c.sent, done: c.done, cost: ch.estimate, settled: ch.settled, release: ch.release}
	if c.decider != 0 { // the owner may hear of it at any time
		s.done = never
	}
	list = append(list, s)
	if ch.overrun > 0 {
		r := &sc.reservations[c.held-1]
		list = append(list, suspect{sent: r.used, done: r.settleDone, cost: ch.overrun, settled: ch.overrun, release: never})
	}
	return list
}

// defence finds for denials how much room there was at least. The suspects are
// by sent; denials must be asked for by sent.
type defence struct {
	limit    *Limit
	list     []suspect
	dones    []int32 // by done, those that have one
	releases []int32 // by release, likewise
	clock    int64

	refill refill
	queue  queue
	trees  bool // the queue is needed: costs change afterwards

	sent, done, gone, released int // how far each order was walked
	sumSent, sumDone           int64
	counted                    int64   // by windows: what counts of what is done
	in                         []int8  // of each suspect: see the constants
	place                      []int32 // of each suspect in dones, if trees
	level                      int64   // of a bucket without a tree
	levelAt                    int64
	order                      sorter
}

// zeroed is n zeros, in the memory of old if that suffices.
func zeroed[T any](old []T, n int) []T {
	old = slices.Grow(old[:0], n)[:n]
	clear(old)
	return old
}

const (
	waiting int8 = iota
	counts
	countsSettled
	outside
)

// reset prepares for a limit. It is false if the limit cannot be judged. Dones is
// the list by done, if that is known.
func (d *defence) reset(l *Limit, list []suspect, dones []int32, end, clock int64) bool {
	*d = defence{
		limit: l, list: list, clock: clock,
		dones: slices.Grow(d.dones[:0], len(list)), releases: d.releases[:0], queue: d.queue, place: d.place, order: d.order,
		in: zeroed(d.in, len(list)),
	}
	var total int64
	for i := range list {
		total += list[i].cost
		if list[i].done != never {
			d.dones = append(d.dones, int32(i))
			if list[i].release != never && list[i].settled < list[i].cost {
				d.releases = append(d.releases, int32(i))
			}
		}
	}
	by := &d.order
	if dones != nil {
		d.dones = d.dones[:0]
		for _, i := range dones {
			if list[i].done != never {
				d.dones = append(d.dones, i)
			}
		}
	} else {
		by.begin(len(d.dones))
		for _, i := range d.dones {
			by.add(list[i].done, i)
		}
		d.dones = by.order(d.dones[:0])
	}
	by.begin(len(d.releases))
	for _, i := range d.releases {
		by.add(list[i].release, i)
	}
	d.releases = by.order(d.releases[:0])
	if l.algorithm() != TokenBucket {
		return true
	}
	base := end
	if len(list) > 0 {
		base = min(base, list[0].sent)
	}
	var ok bool
	d.refill, ok = newRefill(l.Amount, int64(l.Window), base, end, total+l.capacity())
	d.trees = len(d.releases) > 0
	if d.trees {
		d.queue.reset(len(d.dones))
		d.place = zeroed(d.place, len(list))
	}
	d.levelAt = math.MinInt64
	return ok
}

// room is what was surely left of the limit at every moment of a denial.
func (d *defence) room(sent, done int64) int64 {
	if d.limit.algorithm() == TokenBucket {
		level := d.bucket(sent)
		return d.limit.capacity() - d.refill.units(level+d.flying(done)<<d.refill.shift)
	}
	d.window(sent)
	return d.limit.Amount - d.counted - d.flying(done)
}

// flying is the cost of all that was sent before a denial came and was not
// surely done when it was asked for.
func (d *defence) flying(done int64) int64 {
	for d.sent < len(d.list) && d.list[d.sent].sent <= done {
		d.sumSent += d.list[d.sent].cost
		d.sent++
	}
	for d.sent > 0 && d.list[d.sent-1].sent > done {
		d.sent--
		d.sumSent -= d.list[d.sent].cost
	}
	return d.sumSent - d.sumDone
}

// window walks to the time now: what got done counts, what left the window or
// was settled does not.
func (d *defence) window(now int64) {
	for ; d.done < len(d.dones) && d.list[d.dones[d.done]].done <= now; d.done++ {
		i := d.dones[d.done]
		d.in[i] = counts
		d.counted += d.list[i].cost
		d.sumDone += d.list[i].cost
	}
	for ; d.released < len(d.releases) && d.list[d.releases[d.released]].release <= now; d.released++ {
		i := d.releases[d.released]
		s := &d.list[i]
		if d.in[i] == counts { // else it left, or was settled before its answer came and stays whole
			d.in[i] = countsSettled
			d.counted -= s.cost - s.settled
		}
	}
	for from := d.from(now); d.gone < d.done && d.list[d.dones[d.gone]].done < from; d.gone++ {
		i := d.dones[d.gone]
		switch d.in[i] {
		case counts:
			d.counted -= d.list[i].cost
		case countsSettled:
			d.counted -= d.list[i].settled
		}
		d.in[i] = outside
	}
}

// from is the time before which nothing counts any more at now.
func (d *defence) from(now int64) int64 {
	switch d.limit.algorithm() {
	case SlidingWindow:
		return now - int64(d.limit.Window+d.limit.late()) - d.clock
	case FixedWindow:
		if d.limit.Resets == nil {
			return now - int64(d.limit.Window) - d.clock
		}
		for _, r := range slices.Backward(d.limit.Resets) {
			if int64(r)+d.clock <= now {
				return int64(r) - d.clock
			}
		}
	}
	return math.MinInt64
}

// bucket is the highest level that the bucket can have at now of what is done,
// in fractions: every charge as late as it can have been.
func (d *defence) bucket(now int64) int64 {
	drift := int64(0)
	if d.clock > 0 {
		drift = d.refill.during(d.clock) + 1
	}
	for ; d.done < len(d.dones) && d.list[d.dones[d.done]].done <= now; d.done++ {
		i := d.dones[d.done]
		s := &d.list[i]
		d.sumDone += s.cost
		at := d.refill.at(s.done)
		if d.trees {
			d.in[i], d.place[i] = counts, int32(d.done)
			d.queue.set(d.done, at+1, s.cost<<d.refill.shift)
			continue
		}
		d.drain(at)
		d.level += s.cost << d.refill.shift
	}
	if d.done == 0 {
		return 0
	}
	if !d.trees {
		d.drain(d.refill.at(now))
		return d.level + 1 + drift
	}
	for ; d.released < len(d.releases) && d.list[d.releases[d.released]].release <= now; d.released++ {
		i := d.releases[d.released]
		if s := &d.list[i]; d.in[i] == counts {
			d.queue.set(int(d.place[i]), d.refill.at(s.done)+1, s.settled<<d.refill.shift)
		}
	}
	return max(0, d.queue.best()-d.refill.at(now)) + drift
}

func (d *defence) drain(refilled int64) {
	if d.levelAt != math.MinInt64 {
		d.level = max(0, d.level-(refilled-d.levelAt))
	}
	d.levelAt = refilled
}

// sortSuspects reports whether it had something to do.
func sortSuspects(list []suspect) bool {
	order := func(a, b suspect) int { return cmp.Compare(a.sent, b.sent) }
	if slices.IsSortedFunc(list, order) {
		return false
	}
	slices.SortStableFunc(list, order)
	return true
}
