// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"slices"
	"time"
)

// admission is a charge that was surely made, for a limit.
type admission struct {
	sent, done int64
	cost       int64 // from done on
	drop       int64 // from here on it is
	least      int64
	decider    member
}

// excess is what was admitted beyond a limit.
type excess struct {
	sure     int64
	at       int64 // when it was first that much
	possible int64
}

// judge finds what a list of admissions, by sent, is beyond a limit.
type judge struct {
	list    []admission
	dones   []int32 // by done
	sorted  []int32 // memory of dones
	drops   []int32 // by drop, those that have one
	queue   queue
	order   sorter
	windows []int64
	clock   int64
	trace   *tracer // nil: nobody wants to know what was used when
}

// used says that of a limit n were used, surely, at a time.
func (j *judge) used(at, n int64) {
	if j.trace != nil {
		j.trace.add(at, max(0, n))
	}
}

// over also tells trace what was used when, unless that is nil. Dones is the list
// in the order of its answers, if that is known.
func (j *judge) over(l *Limit, list []admission, dones []int32, trace *tracer) excess {
	if len(list) == 0 {
		return excess{}
	}
	j.list, j.trace = list, trace
	by := &j.order
	if j.dones = dones; dones == nil {
		by.begin(len(list))
		for i := range list {
			by.add(list[i].done, int32(i))
		}
		j.sorted = by.order(j.sorted[:0])
		j.dones = j.sorted
	}
	by.begin(0)
	for i := range list {
		if list[i].drop != never {
			by.add(list[i].drop, int32(i))
		}
	}
	j.drops = by.order(j.drops[:0])
	var e excess
	switch l.algorithm() {
	case TokenBucket:
		return j.bucket(l)
	case SlidingWindow:
		e = j.sliding(l)
		e.possible = max(e.sure, j.spread(int64(l.Window)+j.clock)-l.Amount)
	case FixedWindow:
		if l.Resets != nil {
			return j.between(l)
		}
		e.possible = j.spread(int64(l.Window)+j.clock) - l.Amount
		if e.possible > 0 {
			e.sure, e.at = j.anywhere(l)
		} else if j.trace != nil { // any position will do
			j.traceFrom(list[0].sent-int64(l.Window), int64(l.Window))
		}
		e.possible = max(e.sure, e.possible)
	default:
		e = j.total(l.Amount)
	}
	return e
}

// steps calls drop and then charge in the order of time. A charge whose drop
// comes first is never dropped.
func (j *judge) steps(charge func(i int32, cost int64), drop func(i int32)) {
	drops := j.drops
	for _, i := range j.dones {
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

// total is exact: nothing is refilled.
func (j *judge) total(amount int64) excess {
	var sum int64
	var e excess
	j.steps(func(i int32, cost int64) {
		sum += cost
		if sum-amount > e.sure {
			e.sure, e.at = sum-amount, j.list[i].done
		}
		j.used(j.list[i].done, sum)
	}, func(i int32) { sum -= j.list[i].cost - j.list[i].least })
	e.possible = e.sure
	return e
}

// bucket looks at every interval from a sending to an answer: what was sent and
// answered inside is at most burst + rate x its length.
func (j *judge) bucket(l *Limit) excess {
	last := j.list[j.dones[len(j.dones)-1]].done
	var total, slowest int64
	for i := range j.list {
		total += j.list[i].cost
		slowest = max(slowest, j.list[i].done-j.list[i].sent)
	}
	r, ok := newRefill(l.Amount, int64(l.Window), j.list[0].sent, last, total)
	if !ok {
		return excess{} // refills faster than anything can be admitted
	}
	if l.capacity() >= total && j.trace == nil {
		return excess{}
	}
	capacity := l.capacity() << r.shift
	drift := r.during(j.clock)
	if j.clock > 0 {
		drift++
	}
	// With every charge at its sending the level is at least what any interval can
	// show; mostly that settles it.
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
	j.queue.reset(len(j.list))
	var worst int64
	j.steps(func(i int32, cost int64) {
		j.queue.set(int(i), r.at(j.list[i].sent), cost<<r.shift)
		over := j.queue.best() - r.at(j.list[i].done) - 1 - drift - capacity
		if over > worst {
			worst, e.at = over, j.list[i].done
		}
		j.used(j.list[i].done, l.capacity()+r.units(over))
	}, func(i int32) {
		j.queue.set(int(i), r.at(j.list[i].sent), j.list[i].least<<r.shift)
	})
	e.sure = r.units(worst)
	e.possible = max(e.possible, e.sure)
	return e
}

// sliding looks at every interval of one window that ends with an answer.
func (j *judge) sliding(l *Limit) excess {
	window := int64(l.Window) - j.clock
	var sum int64
	var e excess
	oldest := 0 // of list: what was sent before is outside
	in := make([]bool, len(j.list))
	j.steps(func(i int32, cost int64) {
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
		j.used(now, sum)
	}, func(i int32) {
		if in[i] {
			sum -= j.list[i].cost - j.list[i].least
		}
	})
	return e
}

// current is what counts of a charge that is in a sum at now.
func (j *judge) current(i int, now int64) int64 {
	if a := &j.list[i]; a.drop > now {
		return a.cost
	}
	return j.list[i].least
}

// spread is the most that one window may have seen: all that can have been
// charged inside it.
func (j *judge) spread(window int64) int64 {
	var sum, most int64
	gone := j.dones
	for i := range j.list {
		sum += j.list[i].least
		for len(gone) > 0 && j.list[gone[0]].done <= j.list[i].sent-window {
			sum -= j.list[gone[0]].least
			gone = gone[1:]
		}
		most = max(most, sum)
	}
	return most
}

// between looks at what was charged surely between two known resets.
func (j *judge) between(l *Limit) excess {
	// The window of a time is the number of resets until then.
	window := func(t int64) int {
		n, _ := slices.BinarySearch(l.Resets, time.Duration(t+1))
		return n
	}
	n := len(l.Resets) + 1
	j.windows = append(j.windows[:0], make([]int64, 2*n)...)
	sums, spread := j.windows[:n], j.windows[n:]
	home := func(i int32) int {
		first, last := window(j.list[i].sent-j.clock), window(j.list[i].done+j.clock)
		if first != last {
			return -1
		}
		return first
	}
	var e excess
	j.steps(func(i int32, cost int64) {
		for w := window(j.list[i].sent - j.clock); w <= window(j.list[i].done+j.clock); w++ {
			spread[w] += j.list[i].least
		}
		if w := home(i); w >= 0 {
			sums[w] += cost
			if sums[w]-l.Amount > e.sure {
				e.sure, e.at = sums[w]-l.Amount, j.list[i].done
			}
			j.used(j.list[i].done, sums[w])
		}
	}, func(i int32) {
		if w := home(i); w >= 0 {
			sums[w] -= j.list[i].cost - j.list[i].least
		}
	})
	e.possible = e.sure
	for _, sum := range spread {
		e.possible = max(e.possible, sum-l.Amount)
	}
	return e
}

// anywhere moves windows of unknown position over the log: the result is what
// even the position that is best for the limiter cannot explain.
func (j *judge) anywhere(l *Limit) (sure, at int64) {
	window := int64(l.Window)
	base := j.list[0].sent
	if (j.list[j.dones[len(j.dones)-1]].done-base)/window > 1<<24 {
		return 0, 0 // more windows than anybody has
	}
	// Window w holds the times from offset + (w-1) x window on. An end of a charge
	// falls into the window before when the offset passes its rest.
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
	// What is shown is the position with the most that is within the limit, if any.
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
	return sure, j.list[j.dones[len(j.dones)-1]].done
}

// traceFrom traces windows of which one begins at a time before all charges.
func (j *judge) traceFrom(begin, window int64) {
	current, sum := int64(-1), int64(0)
	for _, i := range j.dones {
		a := &j.list[i]
		in := (a.done - begin) / window
		if (a.sent-begin)/window != in {
			continue
		}
		if in != current {
			current, sum = in, 0
		}
		sum += a.least
		j.used(a.done, sum)
	}
}
