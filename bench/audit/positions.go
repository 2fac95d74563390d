// SPDX-License-Identifier: Apache-2.0

package audit

// positions derives the order by done of a list of calls of a root from the order of all
// its calls, which is sorted once.
type positions struct {
	history  *history
	position []int32 // by call: 1 + its index in the list, or 0
	order    []int32
	n        int
	first    int // index of the first call in the list; entries before it are done earlier
}

// begin starts a list of about that many calls.
func (p *positions) begin(h *history, calls int) {
	p.history, p.n = h, 0
	if 4*calls < len(h.calls) {
		p.history = nil // sorting the list is cheaper
		return
	}
	p.position = zeroed(p.position, len(h.calls))
}

// put records the index of a call in the list.
func (p *positions) put(call int32, place int) {
	if p.history == nil {
		return
	}
	if p.n == 0 {
		p.first = place
	}
	p.position[call] = int32(place) + 1
	p.n++
}

// dones returns the order by done of the list of n entries, or nil if it is unknown. It
// is valid until the next begin.
func (p *positions) dones(n int) []int32 {
	if p.history == nil || p.n == 0 || p.first+p.n != n {
		return nil
	}
	p.order = p.order[:0]
	for i := range p.first {
		p.order = append(p.order, int32(i))
	}
	for _, call := range p.history.byDone {
		if place := p.position[call]; place > 0 {
			p.order = append(p.order, place-1)
		}
	}
	return p.order
}
