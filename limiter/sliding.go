// SPDX-License-Identifier: Apache-2.0

package limiter

// subWindows is the number of sub-windows of a sliding window.
const subWindows = 64

// ring counts the usage of a sliding window in sub-windows of 1/64 of its length. The
// current one and the 64 before it cover every half-open interval of one window that
// ends now, so their sum includes every admission in it. Usage is released up to one
// sub-window late.
type ring struct {
	head   int64 // the current sub-window: mono / length of a sub-window
	sum    int64 // of counts
	counts [subWindows + 1]int64
}

// count returns the count of sub-window k.
func (r *ring) count(k int64) *int64 {
	i := k % (subWindows + 1)
	if i < 0 {
		i += subWindows + 1
	}
	return &r.counts[i]
}

// advance makes k the current sub-window and drops those that are too old.
func (r *ring) advance(k int64) {
	if k-r.head > subWindows {
		*r = ring{head: k}
		return
	}
	for r.head < k {
		r.head++
		c := r.count(r.head)
		r.sum -= *c
		*c = 0
	}
}

// contains reports whether sub-window k still counts.
func (r *ring) contains(k int64) bool { return k <= r.head && r.head-k <= subWindows }

func (r *ring) add(k, n int64) {
	*r.count(k) += n
	r.sum += n
}

// used returns the sum of all sub-windows. r may be nil.
func (r *ring) used() int64 {
	if r == nil {
		return 0
	}
	return r.sum
}

// usedAt returns the sum that would remain if k were the current sub-window. It changes
// nothing. r may be nil.
func (r *ring) usedAt(k int64) int64 {
	switch {
	case r == nil || k-r.head > subWindows:
		return 0
	case k <= r.head:
		return r.sum
	}
	left := r.sum
	for i := r.head + 1; i <= k; i++ {
		left -= *r.count(i) // it has the count of the sub-window that falls out
	}
	return left
}

// fitsAt returns the first sub-window in which cost would fit under limit.
func (r *ring) fitsAt(cost, limit int64) int64 {
	left := r.sum
	for k := r.head - subWindows; k <= r.head; k++ {
		left -= *r.count(k)
		if left <= limit-cost {
			return k + subWindows + 1
		}
	}
	return r.head + subWindows + 1
}

// emptyAt returns the first sub-window in which nothing would count any more.
func (r *ring) emptyAt() int64 {
	for k := r.head; ; k-- {
		if *r.count(k) != 0 || r.head-k == subWindows {
			return k + subWindows + 1
		}
	}
}

// remap moves the count of every sub-window k to sub-window to(k).
func (r *ring) remap(head int64, to func(k int64) int64) {
	next := ring{head: head}
	for k := r.head - subWindows; k <= r.head; k++ {
		if n := *r.count(k); n != 0 && next.contains(to(k)) {
			next.add(to(k), n)
		}
	}
	*r = next
}
