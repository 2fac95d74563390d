// SPDX-License-Identifier: Apache-2.0

package slice

import "math"

// MaxReturns is how many returns of a holder may be unacknowledged before it takes no more
// slices.
const MaxReturns = 4

// Unbounded is the amount of a limit that does not bound a slice for checks, because it never
// denies: a limit in shadow mode. What is spent of it is counted, up to 2^53.
const Unbounded = -1

// maxAmount is the most that is counted of a limit.
const maxAmount = 1 << 53

// Grant is a slice that an owner lends.
type Grant struct {
	ID string
	// Amounts are what the slice has of each limit, without the margin: from 0 to 2^53, or
	// Unbounded. The holder spends nothing of a limit with 0.
	Amounts []int64
	// Costs are what the call that the slice came with took of each limit, in the order of
	// Amounts. A slice that has no room for another one like it is returned at once.
	Costs   []int64
	Lease   int64 // nanoseconds from AskedAt
	AskedAt int64 // when the holder sent what the owner answered with the slice
}

// serves reports whether the slice has room for a call like the one it came with, and is
// bounded by what that costs.
func (g *Grant) serves() bool {
	if len(g.Amounts) != len(g.Costs) {
		return false
	}
	bounded := false
	for i, amount := range g.Amounts {
		cost := g.Costs[i]
		if amount < 0 && amount != Unbounded || amount > maxAmount || cost < 0 || cost > maxAmount || amount >= 0 && cost > amount {
			return false
		}
		bounded = bounded || amount > 0 && cost > 0
	}
	return bounded
}

// Return is the end of a slice at its holder.
type Return struct {
	ID    string
	Spent []int64 // of each of Grant.Amounts, without what reservations held at the end
	Calls int64   // that were decided from it
	Used  Used    // by reservations that have ended, see Holder.Use
}

// Used is what calls have used, in tokens and microdollars. Input includes Cached.
type Used struct{ Input, Cached, Output, Spend int64 }

// add adds v. No sum is more than 2^53.
func (u *Used) add(v Used) {
	for _, n := range [...]struct {
		sum *int64
		add int64
	}{{&u.Input, v.Input}, {&u.Cached, v.Cached}, {&u.Output, v.Output}, {&u.Spend, v.Spend}} {
		*n.sum = min(*n.sum+n.add, maxAmount)
	}
}

// Holder holds slices for calls of one kind: one that it spends, and those whose return the
// owner has not acknowledged. Times are of the holder's monotonic clock, in nanoseconds, and
// not negative. It is not safe for concurrent use. The zero value holds nothing.
//
// Costs have one number for each limit of the slice, in the order of [Grant].Amounts. A call
// with other costs is not decided.
type Holder struct {
	live     bool
	id       string
	limits   []part // its memory is reused
	calls    int64  // that were decided
	used     Used
	deadline int64

	asking     bool
	notBefore  int64    // slices that were asked for earlier are not taken, because of a recall
	unreturned []Return // the oldest first
}

// part is a part of one limit: amount = left + held + spent.
type part struct {
	amount int64
	left   int64
	held   int64 // by reservations that have not ended
	bounds bool  // else amount is [maxAmount]
}

// Take decides a call from memory. It returns false if the slice is over or has too little
// left; the owner decides such a call. A slice that has no room for another one like it is
// over.
func (h *Holder) Take(now int64, costs []int64) bool {
	if !h.Fits(now, costs) {
		return false
	}
	for i, cost := range costs {
		h.limits[i].left -= cost
	}
	h.calls++
	if !h.Fits(now, costs) {
		h.end()
	}
	return true
}

// Reserve is like Take, but the costs are held until Correct. What is held when the slice
// ends is not in its [Return]: whoever returns it tells the owner of the reservations.
func (h *Holder) Reserve(now int64, costs []int64) bool {
	if !h.Fits(now, costs) {
		return false
	}
	for i, cost := range costs {
		h.limits[i].left -= cost
		h.limits[i].held += cost
	}
	h.calls++
	return true
}

// Correct ends a reservation that was made from the slice: it spends the actual costs in place
// of what it holds, the costs of Reserve. It returns false, and changes nothing, if the slice
// is over or has too little left. The caller knows that the reservation is one of this slice.
func (h *Holder) Correct(now int64, reserved, actual []int64) bool {
	h.expire(now)
	if !h.live || len(reserved) != len(h.limits) || len(actual) != len(h.limits) {
		return false
	}
	for i := range h.limits {
		l := &h.limits[i]
		if reserved[i] < 0 || reserved[i] > l.held || actual[i] < 0 || actual[i] > l.left+reserved[i] {
			return false
		}
	}
	for i := range h.limits {
		l := &h.limits[i]
		l.held -= reserved[i]
		l.left += reserved[i] - actual[i]
	}
	return true
}

// Use adds what a reservation has used, after Correct. Its owner learns the sum with the
// [Return].
func (h *Holder) Use(u Used) { h.used.add(u) }

// Fits reports whether the slice has room for a call. It ends a slice whose time is over.
func (h *Holder) Fits(now int64, costs []int64) bool {
	h.expire(now)
	if !h.live || len(costs) != len(h.limits) {
		return false
	}
	for i, cost := range costs {
		if cost < 0 || cost > h.limits[i].left {
			return false
		}
	}
	return true
}

// Ask returns whether to ask the owner for a slice now: there is none, or half of it is
// spent or held, no other request is under way, and fewer than [MaxReturns] returns are
// unacknowledged. Then Granted or Refused must follow.
func (h *Holder) Ask(now int64) bool {
	h.expire(now)
	if h.asking || !h.wants() {
		return false
	}
	h.asking = true
	return true
}

// Renewable reports whether Ask would return true because half of the slice is spent or held,
// while the rest of it can still be spent.
func (h *Holder) Renewable() bool {
	return h.live && !h.asking && h.wants()
}

func (h *Holder) wants() bool {
	return len(h.unreturned) < MaxReturns && (!h.live || h.halfSpent())
}

// halfSpent reports whether half of the slice is spent or held, in one of the limits.
func (h *Holder) halfSpent() bool {
	for i := range h.limits {
		if l := &h.limits[i]; l.bounds && l.amount > 0 && l.left <= l.amount/2 {
			return true
		}
	}
	return false
}

// Granted begins a slice that the owner lent, and ends the one before. It returns false if
// the slice is to be returned at once: if it is over already, has no room for a call like the
// one it came with, was asked for before a recall, or if half of the one before is not spent
// yet. It ignores a slice that it holds or has to return.
func (h *Holder) Granted(now int64, g *Grant) bool {
	h.asking = false
	if h.knows(g.ID) {
		return false
	}
	h.expire(now)
	if g.AskedAt < h.notBefore || !g.serves() || g.Lease <= now-g.AskedAt || !h.wants() {
		h.unreturned = append(h.unreturned, Return{ID: g.ID, Spent: make([]int64, len(g.Amounts))})
		return false
	}
	h.end()
	h.live, h.id, h.calls, h.used, h.deadline = true, g.ID, 0, Used{}, g.AskedAt+min(g.Lease, math.MaxInt64-g.AskedAt)
	h.limits = h.limits[:0]
	for _, amount := range g.Amounts {
		bounds := amount != Unbounded
		if !bounds {
			amount = maxAmount
		}
		h.limits = append(h.limits, part{amount: amount, left: amount, bounds: bounds})
	}
	return true
}

// knows reports whether a slice is held, or its return is not acknowledged.
func (h *Holder) knows(id string) bool {
	if h.live && h.id == id {
		return true
	}
	for i := range h.unreturned {
		if h.unreturned[i].ID == id {
			return true
		}
	}
	return false
}

// Refused says that the owner lends nothing for the last Ask, or that its answer is lost.
// In that case, the owner ends the slice if there is one.
func (h *Holder) Refused() { h.asking = false }

// Recall ends the slice at once, because the owner needs it, or the holder drains. A slice
// that was asked for until now will be returned when it arrives.
func (h *Holder) Recall(now int64) {
	h.end()
	h.notBefore = now + 1
}

// End ends the slice at once. Another one may be asked for.
func (h *Holder) End() { h.end() }

// expire ends the slice if its time is over.
func (h *Holder) expire(now int64) {
	if h.live && now >= h.deadline {
		h.end()
	}
}

// end ends the slice, which is to be returned.
func (h *Holder) end() {
	if !h.live {
		return
	}
	r := Return{ID: h.id, Spent: make([]int64, len(h.limits)), Calls: h.calls, Used: h.used}
	for i := range h.limits {
		l := &h.limits[i]
		r.Spent[i] = l.amount - l.left - l.held
	}
	h.unreturned = append(h.unreturned, r)
	h.live = false
}

// Live reports whether there is a slice, which may be over by now.
func (h *Holder) Live() bool { return h.live }

// ID returns the id of the slice, if there is one, or of the last one.
func (h *Holder) ID() string { return h.id }

// Asking reports whether an answer to an Ask is awaited.
func (h *Holder) Asking() bool { return h.asking }

// Calls returns how many calls were decided from the slice, or from the last one.
func (h *Holder) Calls() int64 { return h.calls }

// Used returns what is spent and held of limit i of the slice, or of the last one.
func (h *Holder) Used(i int) int64 { return h.limits[i].amount - h.limits[i].left }

// Deadline returns until when the slice may be spent, if there is one.
func (h *Holder) Deadline() int64 { return h.deadline }

// Unacknowledged returns how many returns the owner has not acknowledged.
func (h *Holder) Unacknowledged() int { return len(h.unreturned) }

// Due returns what the owner has to be told, the oldest first, until Returned. It may be
// sent again, because an owner ignores a return that it has had. The list is valid until
// the next call of a method; what it points to does not change.
func (h *Holder) Due(now int64) []Return {
	h.expire(now)
	return h.unreturned
}

// Returned says that the owner has acknowledged the return of a slice.
func (h *Holder) Returned(id string) {
	for i := range h.unreturned {
		if h.unreturned[i].ID == id {
			n := copy(h.unreturned[i:], h.unreturned[i+1:])
			h.unreturned[i+n] = Return{}
			h.unreturned = h.unreturned[:i+n]
			return
		}
	}
}
