// SPDX-License-Identifier: Apache-2.0

package slice

import (
	"math"
	"math/bits"
)

// MaxReturns is how many returns of a holder may be unacknowledged before it takes no more
// slices.
const MaxReturns = 4

// Grant is a slice that an owner lends for calls which all cost the same.
type Grant struct {
	ID string
	// Amounts are what the slice has of each limit, without the margin. A limit with 0 does
	// not bound the slice, such as one that never denies. From 0 to 2^53.
	Amounts []int64
	// Costs are what one call takes of each limit, in the order of Amounts.
	Costs   []int64
	Lease   int64 // nanoseconds from AskedAt
	AskedAt int64 // when the holder sent what the owner answered with the slice
}

// calls returns how many calls the slice holds, and after how many of them half of it is
// spent in one of the limits. Both are 0 if nothing bounds the slice, or a number is
// negative.
func (g *Grant) calls() (n, half int64) {
	if len(g.Amounts) != len(g.Costs) {
		return 0, 0
	}
	n, half = math.MaxInt64, math.MaxInt64
	bounded := false
	for i, amount := range g.Amounts {
		cost := g.Costs[i]
		if amount < 0 || cost < 0 {
			return 0, 0
		}
		if amount == 0 || cost == 0 {
			continue
		}
		bounded = true
		n = min(n, amount/cost)
		rest := amount - amount/2
		calls := rest / cost
		if rest%cost > 0 {
			calls++
		}
		half = min(half, calls)
	}
	if !bounded {
		return 0, 0
	}
	return n, half
}

// Return is the end of a slice at its holder.
type Return struct {
	ID    string
	Spent []int64 // of each of Grant.Amounts; also of limits that do not bound the slice
	Calls int64   // that were decided from it
}

// Holder holds slices for calls of one kind: one that it spends, and those whose return the
// owner has not acknowledged. Times are of the holder's monotonic clock, in nanoseconds, and
// not negative. It is not safe for concurrent use. The zero value holds nothing.
type Holder struct {
	live     bool
	id       string
	costs    []int64 // of one call; its memory is reused
	left     int64   // calls
	calls    int64   // that were decided
	half     int64   // calls after which half is spent
	deadline int64

	asking     bool
	notBefore  int64    // slices that were asked for earlier are not taken, because of a recall
	unreturned []Return // the oldest first
}

// Take decides n calls from memory, all of them or none. It returns false if the slice is
// over or too small for them; the owner decides such calls. A slice that is spent is over.
func (h *Holder) Take(now, n int64) bool {
	if !h.live {
		return false
	}
	if now >= h.deadline {
		h.end()
		return false
	}
	if n < 0 || n > h.left {
		return false
	}
	h.left -= n
	h.calls += n
	if h.left == 0 {
		h.end()
	}
	return true
}

// Ask returns whether to ask the owner for a slice now: there is none, or half of it is
// spent, no other request is under way, and fewer than [MaxReturns] returns are
// unacknowledged. Then Granted or Refused must follow.
func (h *Holder) Ask(now int64) bool {
	h.expire(now)
	if h.asking || !h.wants() {
		return false
	}
	h.asking = true
	return true
}

// Renewable reports whether Ask would return true because half of the slice is spent, while
// the rest of it can still be spent.
func (h *Holder) Renewable() bool {
	return h.live && !h.asking && h.wants()
}

func (h *Holder) wants() bool {
	return len(h.unreturned) < MaxReturns && (!h.live || h.calls >= h.half)
}

// Granted begins a slice that the owner lent, and ends the one before. It returns false if
// the slice is to be returned at once: if it is over already, holds no call, was asked for
// before a recall, or if half of the one before is not spent yet. It ignores a slice that it
// holds or has to return.
func (h *Holder) Granted(now int64, g *Grant) bool {
	h.asking = false
	if h.knows(g.ID) {
		return false
	}
	h.expire(now)
	calls, half := g.calls()
	if g.AskedAt < h.notBefore || calls < 1 || g.Lease <= now-g.AskedAt || !h.wants() {
		h.unreturned = append(h.unreturned, Return{ID: g.ID, Spent: make([]int64, len(g.Amounts))})
		return false
	}
	h.end()
	h.live, h.id, h.left, h.calls, h.half, h.deadline = true, g.ID, calls, 0, half, g.AskedAt+min(g.Lease, math.MaxInt64-g.AskedAt)
	h.costs = append(h.costs[:0], g.Costs...)
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
	r := Return{ID: h.id, Spent: make([]int64, len(h.costs)), Calls: h.calls}
	for i, cost := range h.costs {
		r.Spent[i] = Product(h.calls, cost)
	}
	h.unreturned = append(h.unreturned, r)
	h.live = false
}

// Product returns a*b for numbers that are not negative, and at most 2^63-1.
func Product(a, b int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi > 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

// Live reports whether there is a slice, which may be over by now.
func (h *Holder) Live() bool { return h.live }

// Asking reports whether an answer to an Ask is awaited.
func (h *Holder) Asking() bool { return h.asking }

// Calls returns how many calls were decided from the slice, or from the last one.
func (h *Holder) Calls() int64 { return h.calls }

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
