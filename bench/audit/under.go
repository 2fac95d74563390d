// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"math"
	"slices"

	"github.com/bucketring/bucketring/bench"
)

// suspect is a charge that may have taken room.
type suspect struct {
	sent    int64 // it took no room before
	done    int64 // it was certainly made by then; may be never
	cost    int64 // until release
	settled int64 // from release on
	release int64
}

// suspect adds the charges of a call to list.
func (ra *rootAudit) suspect(list []suspect, c *call, ch charges) []suspect {
	s := suspect{sent: c.sent, done: c.done, cost: ch.estimate, settled: ch.settled, release: ch.release}
	if c.decider != 0 { // the owner may be told at any time
		s.done = never
	}
	list = append(list, s)
	if ch.overrun > 0 {
		r := &ra.reservations[c.reservation-1]
		list = append(list, suspect{sent: r.firstUsage, done: r.settleDone, cost: ch.overrun, settled: ch.overrun, release: never})
	}
	return list
}

// suspectDenied adds the checks that were denied without their owner. If their owner had charged
// one, it gives back what the token bucket has not refilled since, which may be nothing.
func (e *examiner) suspectDenied(list []suspect, ra *rootAudit, st *limitState) []suspect {
	if st.limit.algorithm() != TokenBucket {
		return list
	}
	for _, r := range ra.deniedInFallback {
		if r.op != bench.OpCheck {
			continue
		}
		if l := st.limitFor(r.caller); l != nil {
			cost := e.deniedCost(l, ra.callers[r.caller].model, r)
			list = append(list, suspect{sent: r.sent, done: never, cost: cost, settled: cost, release: never})
		}
	}
	return list
}

// roomChecker finds how much room a limit had at least when it denied a call. The
// suspects are ordered by sent, and denials must be checked in order of sent.
type roomChecker struct {
	limit    *Limit
	list     []suspect
	dones    []int32 // indexes by done, of suspects that have one
	releases []int32 // indexes by release, of suspects that have one
	clock    int64

	refill  refill
	tree    segmentTree
	useTree bool // costs change after done, so that the tree is needed

	sent, done, expired, released int // positions in the orders
	sumSent, sumDone              int64
	counted                       int64   // sum of the window
	in                            []int8  // state of each suspect; see the constants
	place                         []int32 // index of each suspect in dones, if useTree
	level                         int64   // of a bucket, if not useTree
	levelAt                       int64
	order                         sorter
}

// zeroed returns n zeros, in the memory of old if possible.
func zeroed[T any](old []T, n int) []T {
	old = slices.Grow(old[:0], n)[:n]
	clear(old)
	return old
}

const (
	pending int8 = iota
	counts
	countsSettled
	outside
)

// reset prepares for a limit. It returns false if the limit cannot be judged. dones is
// the order by done, or nil if it is unknown.
func (d *roomChecker) reset(l *Limit, list []suspect, dones []int32, end, clock int64) bool {
	*d = roomChecker{
		limit: l, list: list, clock: clock,
		dones: slices.Grow(d.dones[:0], len(list)), releases: d.releases[:0], tree: d.tree, place: d.place, order: d.order,
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
		by.reset(len(d.dones))
		for _, i := range d.dones {
			by.add(list[i].done, i)
		}
		d.dones = by.order(d.dones[:0])
	}
	by.reset(len(d.releases))
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
	d.useTree = len(d.releases) > 0
	if d.useTree {
		d.tree.reset(len(d.dones))
		d.place = zeroed(d.place, len(list))
	}
	d.levelAt = math.MinInt64
	return ok
}

// room returns what was certainly left of the limit throughout a denied request.
func (d *roomChecker) room(sent, done int64) int64 {
	if d.limit.algorithm() == TokenBucket {
		level := d.bucketLevel(sent)
		return d.limit.capacity() - d.refill.units(level+d.outstanding(done)<<d.refill.shift)
	}
	d.advance(sent)
	return d.limit.Amount - d.counted - d.outstanding(done)
}

// outstanding returns the cost of what was sent before a denial arrived and was not
// certainly done when its request was sent.
func (d *roomChecker) outstanding(done int64) int64 {
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

// advance moves the window to now: it adds what was done, and removes what left the
// window or was settled.
func (d *roomChecker) advance(now int64) {
	for ; d.done < len(d.dones) && d.list[d.dones[d.done]].done <= now; d.done++ {
		i := d.dones[d.done]
		d.in[i] = counts
		d.counted += d.list[i].cost
		d.sumDone += d.list[i].cost
	}
	for ; d.released < len(d.releases) && d.list[d.releases[d.released]].release <= now; d.released++ {
		i := d.releases[d.released]
		s := &d.list[i]
		if d.in[i] == counts { // otherwise it left, or was settled before its answer and keeps its cost
			d.in[i] = countsSettled
			d.counted -= s.cost - s.settled
		}
	}
	for from := d.windowStart(now); d.expired < d.done && d.list[d.dones[d.expired]].done < from; d.expired++ {
		i := d.dones[d.expired]
		switch d.in[i] {
		case counts:
			d.counted -= d.list[i].cost
		case countsSettled:
			d.counted -= d.list[i].settled
		}
		d.in[i] = outside
	}
}

// windowStart returns the time before which charges no longer count at now.
func (d *roomChecker) windowStart(now int64) int64 {
	switch d.limit.algorithm() {
	case SlidingWindow:
		return now - int64(d.limit.Window+d.limit.releaseDelay()) - d.clock
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

// bucketLevel returns the highest possible level of the bucket at now, in fractions,
// from what is done: every charge as late as possible.
func (d *roomChecker) bucketLevel(now int64) int64 {
	drift := int64(0)
	if d.clock > 0 {
		drift = d.refill.during(d.clock) + 1
	}
	for ; d.done < len(d.dones) && d.list[d.dones[d.done]].done <= now; d.done++ {
		i := d.dones[d.done]
		s := &d.list[i]
		d.sumDone += s.cost
		at := d.refill.at(s.done)
		if d.useTree {
			d.in[i], d.place[i] = counts, int32(d.done)
			d.tree.set(d.done, at+1, s.cost<<d.refill.shift)
			continue
		}
		d.refillTo(at)
		d.level += s.cost << d.refill.shift
	}
	if d.done == 0 {
		return 0
	}
	if !d.useTree {
		d.refillTo(d.refill.at(now))
		return d.level + 1 + drift
	}
	for ; d.released < len(d.releases) && d.list[d.releases[d.released]].release <= now; d.released++ {
		i := d.releases[d.released]
		if s := &d.list[i]; d.in[i] == counts {
			d.tree.set(int(d.place[i]), d.refill.at(s.done)+1, s.settled<<d.refill.shift)
		}
	}
	return max(0, d.tree.max()-d.refill.at(now)) + drift
}

func (d *roomChecker) refillTo(refilled int64) {
	if d.levelAt != math.MinInt64 {
		d.level = max(0, d.level-(refilled-d.levelAt))
	}
	d.levelAt = refilled
}

// sortSuspects sorts by sent. It returns false if list was sorted already.
func sortSuspects(list []suspect) bool {
	order := func(a, b suspect) int { return cmp.Compare(a.sent, b.sent) }
	if slices.IsSortedFunc(list, order) {
		return false
	}
	slices.SortStableFunc(list, order)
	return true
}
