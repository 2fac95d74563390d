// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"slices"
	"time"
)

// admission is a charge that was certainly made.
type admission struct {
	sent, done int64
	cost       int64 // from done to drop
	drop       int64
	least      int64 // from drop on
	decider    member
}

// excess is what was admitted beyond a limit.
type excess struct {
	sure     int64 // certainly
	at       int64 // when sure was first reached
	possible int64 // if every uncertainty is resolved against the limiter
}

// overChecker finds what admissions, ordered by sent, exceed a limit.
type overChecker struct {
	list    []admission
	byDone  []int32 // indexes by done
	sorted  []int32 // memory of byDone
	byDrop  []int32 // indexes by drop, of admissions that have one
	tree    segmentTree
	order   sorter
	windows []int64
	clock   int64
	trace   *usageTracer // nil if no trace is needed
}

// traceUsed records that n units of the limit were certainly used at a time.
func (j *overChecker) traceUsed(at, n int64) {
	if j.trace != nil {
		j.trace.add(at, max(0, n))
	}
}

// check finds the excess of list over a limit. It records the usage in trace unless that
// is nil. dones is the order of list by done, or nil if it is unknown.
func (j *overChecker) check(l *Limit, list []admission, dones []int32, trace *usageTracer) excess {
	if len(list) == 0 {
		return excess{}
	}
	j.list, j.trace = list, trace
	by := &j.order
	if j.byDone = dones; dones == nil {
		by.reset(len(list))
		for i := range list {
			by.add(list[i].done, int32(i))
		}
		j.sorted = by.order(j.sorted[:0])
		j.byDone = j.sorted
	}
	by.reset(0)
	for i := range list {
		if list[i].drop != never {
			by.add(list[i].drop, int32(i))
		}
	}
	j.byDrop = by.order(j.byDrop[:0])
	var e excess
	switch l.algorithm() {
	case TokenBucket:
		return j.tokenBucket(l)
	case SlidingWindow:
		e = j.slidingWindow(l)
		e.possible = max(e.sure, j.maxPossible(int64(l.Window)+j.clock)-l.Amount)
	case FixedWindow:
		if l.Resets != nil {
			return j.betweenResets(l)
		}
		e.possible = j.maxPossible(int64(l.Window)+j.clock) - l.Amount
		if e.possible > 0 {
			e.sure, e.at = j.anyPosition(l)
		} else if j.trace != nil { // any position explains the log
			j.traceFrom(list[0].sent-int64(l.Window), int64(l.Window))
		}
		e.possible = max(e.sure, e.possible)
	default:
		e = j.total(l.Amount)
	}
	return e
}

// replay calls charge and drop in the order of time. An admission whose drop is not
// after its done is charged at its least cost and never dropped.
func (j *overChecker) replay(charge func(i int32, cost int64), drop func(i int32)) {
	drops := j.byDrop
	for _, i := range j.byDone {
		at := j.list[i].done
		for len(drops) > 0 && j.list[drops[0]].drop <= at {
			if d := &j.list[drops[0]]; d.done < d.drop {
				drop(drops[0])
			}
			drops = drops[1:]
		}
		a := &j.list[i]
		if a.drop <= a.done {
			charge(i, a.least)
		} else {
			charge(i, a.cost)
		}
	}
}

// total is the check without refill, which is exact.
func (j *overChecker) total(amount int64) excess {
	var sum int64
	var e excess
	j.replay(func(i int32, cost int64) {
		sum += cost
		if sum-amount > e.sure {
			e.sure, e.at = sum-amount, j.list[i].done
		}
		j.traceUsed(j.list[i].done, sum)
	}, func(i int32) { sum -= j.list[i].cost - j.list[i].least })
	e.possible = e.sure
	return e
}

// tokenBucket checks every interval from a request to an answer: what was sent and
// answered inside is at most burst + rate x length.
func (j *overChecker) tokenBucket(l *Limit) excess {
	last := j.list[j.byDone[len(j.byDone)-1]].done
	var total, slowest int64
	for i := range j.list {
		total += j.list[i].cost
		slowest = max(slowest, j.list[i].done-j.list[i].sent)
	}
	r, ok := newRefill(l.Amount, int64(l.Window), j.list[0].sent, last, total)
	if !ok {
		return excess{} // refills too fast to be exceeded
	}
	if l.capacity() >= total && j.trace == nil {
		return excess{}
	}
	capacity := l.capacity() << r.shift
	drift := r.during(j.clock)
	if j.clock > 0 {
		drift++
	}
	// If every charge is at the time of its request, the level is an upper bound for
	// all intervals. In most cases it is low enough to finish here.
	level := func(cost func(*admission) int64) (highest int64) {
		var q, before int64
		for i := range j.list {
			at := r.at(j.list[i].sent)
			q = max(0, q-(at-before)) + cost(&j.list[i])<<r.shift
			highest, before = max(highest, q), at
		}
		return highest
	}
	var e excess
	most := level(func(a *admission) int64 { return a.least })
	e.possible = max(0, r.units(most+r.during(slowest)+drift-capacity))
	if j.trace == nil && level(func(a *admission) int64 { return a.cost })+2 <= capacity {
		return e
	}
	j.tree.reset(len(j.list))
	var worst int64
	j.replay(func(i int32, cost int64) {
		j.tree.set(int(i), r.at(j.list[i].sent), cost<<r.shift)
		over := j.tree.max() - r.at(j.list[i].done) - 1 - drift - capacity
		if over > worst {
			worst, e.at = over, j.list[i].done
		}
		j.traceUsed(j.list[i].done, l.capacity()+r.units(over))
	}, func(i int32) {
		j.tree.set(int(i), r.at(j.list[i].sent), j.list[i].least<<r.shift)
	})
	e.sure = r.units(worst)
	e.possible = max(e.possible, e.sure)
	return e
}

// slidingWindow checks every interval of one window that ends with an answer.
func (j *overChecker) slidingWindow(l *Limit) excess {
	window := int64(l.Window) - j.clock
	var sum int64
	var e excess
	oldest := 0 // index in list; earlier admissions are outside the window
	in := make([]bool, len(j.list))
	j.replay(func(i int32, cost int64) {
		now := j.list[i].done
		for ; oldest < len(j.list) && j.list[oldest].sent <= now-window; oldest++ {
			if in[oldest] {
				in[oldest] = false
				sum -= j.current(oldest, now)
			}
		}
		if int(i) < oldest {
			return
		}
		in[i] = true
		sum += cost
		if sum-l.Amount > e.sure {
			e.sure, e.at = sum-l.Amount, now
		}
		j.traceUsed(now, sum)
	}, func(i int32) {
		if in[i] {
			sum -= j.list[i].cost - j.list[i].least
		}
	})
	return e
}

// current returns the cost of an admission at a time.
func (j *overChecker) current(i int, now int64) int64 {
	if a := &j.list[i]; a.drop > now {
		return a.cost
	}
	return j.list[i].least
}

// maxPossible returns the most that may have been charged within one window.
func (j *overChecker) maxPossible(window int64) int64 {
	var sum, most int64
	expired := j.byDone
	for i := range j.list {
		sum += j.list[i].least
		for len(expired) > 0 && j.list[expired[0]].done <= j.list[i].sent-window {
			sum -= j.list[expired[0]].least
			expired = expired[1:]
		}
		most = max(most, sum)
	}
	return most
}

// betweenResets checks what was certainly charged between two known resets.
func (j *overChecker) betweenResets(l *Limit) excess {
	// window returns the index of the window of a time: the number of resets until then.
	window := func(t int64) int {
		n, _ := slices.BinarySearch(l.Resets, time.Duration(t+1))
		return n
	}
	n := len(l.Resets) + 1
	j.windows = append(j.windows[:0], make([]int64, 2*n)...)
	sums, spread := j.windows[:n], j.windows[n:]
	windowOf := func(i int32) int {
		first, last := window(j.list[i].sent-j.clock), window(j.list[i].done+j.clock)
		if first != last {
			return -1
		}
		return first
	}
	var e excess
	j.replay(func(i int32, cost int64) {
		for w := window(j.list[i].sent - j.clock); w <= window(j.list[i].done+j.clock); w++ {
			spread[w] += j.list[i].least
		}
		if w := windowOf(i); w >= 0 {
			sums[w] += cost
			if sums[w]-l.Amount > e.sure {
				e.sure, e.at = sums[w]-l.Amount, j.list[i].done
			}
			j.traceUsed(j.list[i].done, sums[w])
		}
	}, func(i int32) {
		if w := windowOf(i); w >= 0 {
			sums[w] -= j.list[i].cost - j.list[i].least
		}
	})
	e.possible = e.sure
	for _, sum := range spread {
		e.possible = max(e.possible, sum-l.Amount)
	}
	return e
}

// anyPosition moves windows of unknown position over the log. It returns the excess
// that remains with the position that is best for the limiter.
func (j *overChecker) anyPosition(l *Limit) (sure, at int64) {
	window := int64(l.Window)
	base := j.list[0].sent
	if (j.list[j.byDone[len(j.byDone)-1]].done-base)/window > 1<<24 {
		return 0, 0 // too many windows to be realistic
	}
	// Window w begins at offset + (w-1) x window. A time moves to the window before
	// when the offset exceeds its remainder.
	type turn struct {
		offset int64
		i      int32
		end    bool
	}
	turns := make([]turn, 0, 2*len(j.list))
	homes := make([][2]int32, len(j.list))
	last := int32(0)
	for i := range j.list {
		sent, done := j.list[i].sent-base, j.list[i].done-base
		homes[i] = [2]int32{int32(sent/window) + 1, int32(done/window) + 1}
		last = max(last, homes[i][1])
		turns = append(turns, turn{sent%window + 1, int32(i), false}, turn{done%window + 1, int32(i), true})
	}
	slices.SortFunc(turns, func(a, b turn) int { return cmp.Compare(a.offset, b.offset) })
	leaves := 1
	for leaves < int(last)+1 {
		leaves *= 2
	}
	most := append(j.windows[:0], make([]int64, 2*leaves)...)
	j.windows = most
	add := func(w int32, cost int64) {
		i := int(w) + leaves
		most[i] += cost
		for i /= 2; i > 0; i /= 2 {
			most[i] = max(most[2*i], most[2*i+1])
		}
	}
	for i := range j.list {
		if homes[i][0] == homes[i][1] {
			add(homes[i][0], j.list[i].least)
		}
	}
	sure = most[1]
	// The trace is of the position with the highest usage within the limit, if any.
	shown, best := sure, int64(0)
	for len(turns) > 0 && turns[0].offset < window {
		offset := turns[0].offset
		for ; len(turns) > 0 && turns[0].offset == offset; turns = turns[1:] {
			t := turns[0]
			home := &homes[t.i]
			if home[0] == home[1] {
				add(home[0], -j.list[t.i].least)
			}
			if t.end {
				home[1]--
			} else {
				home[0]--
			}
			if home[0] == home[1] {
				add(home[0], j.list[t.i].least)
			}
		}
		sure = min(sure, most[1])
		if within := most[1] <= l.Amount; within && (shown > l.Amount || most[1] > shown) || !within && most[1] < shown {
			shown, best = most[1], offset
		}
	}
	if j.trace != nil {
		j.traceFrom(base-window+best, window)
	}
	if sure -= l.Amount; sure <= 0 {
		return 0, 0
	}
	return sure, j.list[j.byDone[len(j.byDone)-1]].done
}

// traceFrom traces windows that begin at begin, which is before all charges.
func (j *overChecker) traceFrom(begin, window int64) {
	current, sum := int64(-1), int64(0)
	for _, i := range j.byDone {
		a := &j.list[i]
		in := (a.done - begin) / window
		if (a.sent-begin)/window != in {
			continue
		}
		if in != current {
			current, sum = in, 0
		}
		sum += a.least
		j.traceUsed(a.done, sum)
	}
}
