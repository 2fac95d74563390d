// SPDX-License-Identifier: Apache-2.0

package slice

// Grant is a slice that an owner lends.
type Grant struct {
	ID      string
	Amounts Amounts // without the margin
	Lease   int64   // nanoseconds from when the holder asked
}

// Return is the end of a slice at its holder.
type Return struct {
	ID    string
	Spent Amounts
	Calls int64 // that were decided from it
}

// Holder holds slices of one key: one that it spends, and those whose return the owner has
// not acknowledged. Times are of the holder's monotonic clock, in nanoseconds. It is not
// safe for concurrent use. The zero value holds nothing.
type Holder struct {
	live     bool
	id       string
	amounts  Amounts // of the slice
	left     Amounts
	calls    int64
	deadline int64

	asking  bool
	askedAt int64

	returns []Return // the oldest first
}

// Take decides a call from memory. It returns false if the slice is over or too small, and
// then changes nothing; the owner decides such a call.
func (h *Holder) Take(now int64, cost *Amounts) bool {
	if !h.live {
		return false
	}
	if now >= h.deadline {
		h.end()
		return false
	}
	if !h.left.covers(cost) {
		return false
	}
	for i, n := range cost {
		h.left[i] -= n
	}
	h.calls++
	return true
}

// Ask returns whether to ask the owner for a slice now: there is none, or half of it is
// spent, and no other request is under way. Then Granted or Refused must follow.
func (h *Holder) Ask(now int64) bool {
	if h.live && now >= h.deadline {
		h.end()
	}
	if h.asking || h.live && !h.halfSpent() {
		return false
	}
	h.asking, h.askedAt = true, now
	return true
}

// halfSpent reports whether half of the slice is spent in one of the dimensions.
func (h *Holder) halfSpent() bool {
	for i, n := range h.amounts {
		if n > 0 && h.left[i] <= n/2 {
			return true
		}
	}
	return false
}

// Granted begins a slice that the owner lent for the last Ask, and ends the one before. If
// there was no Ask, or the slice is over already, it is returned at once.
func (h *Holder) Granted(now int64, g Grant) {
	asked := h.asking
	h.asking = false
	if !asked || now >= h.askedAt+g.Lease {
		h.returns = append(h.returns, Return{ID: g.ID})
		return
	}
	h.end()
	h.live, h.id, h.amounts, h.left, h.calls, h.deadline = true, g.ID, g.Amounts, g.Amounts, 0, h.askedAt+g.Lease
}

// Refused says that the owner lends nothing for the last Ask, or that its answer is lost.
// In that case, the owner ends the slice if there is one.
func (h *Holder) Refused() { h.asking = false }

// Recall ends the slice at once, because the owner needs it, or the holder drains. A slice
// that is still asked for will be returned when it arrives.
func (h *Holder) Recall() {
	h.end()
	h.asking = false
}

// end ends the slice, which is to be returned.
func (h *Holder) end() {
	if !h.live {
		return
	}
	r := Return{ID: h.id, Calls: h.calls}
	for i, n := range h.amounts {
		r.Spent[i] = n - h.left[i]
	}
	h.returns = append(h.returns, r)
	h.live = false
}

// Due returns what the owner has to be told, the oldest first, until Returned. It may be
// sent again, because an owner ignores a return that it has had. The list is valid until
// the next call of a method.
func (h *Holder) Due(now int64) []Return {
	if h.live && now >= h.deadline {
		h.end()
	}
	return h.returns
}

// Returned says that the owner has acknowledged the return of a slice.
func (h *Holder) Returned(id string) {
	for i := range h.returns {
		if h.returns[i].ID == id {
			h.returns = append(h.returns[:i], h.returns[i+1:]...)
			return
		}
	}
}
