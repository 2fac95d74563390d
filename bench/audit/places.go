// SPDX-License-Identifier: Apache-2.0

package audit

// places finds the order by done of a list that was made of many calls of a root,
// from the order of all of them: that is sorted once, and each list is as long as
// the log.
type places struct {
	history *history
	of      []int32 // of a call 1 + its place in the list, or 0
	order   []int32
	n       int
	first   int // the place of the first call: what comes before is done before
}

// begin is for a list of about as many calls.
func (p *places) begin(h *history, calls int) {
	p.history, p.n = h, 0
	if 4*calls < len(h.calls) {
		p.history = nil // sorting them is less work than looking at all
		return
	}
	p.of = zeroed(p.of, len(h.calls))
}

// put says where in the list a call is.
func (p *places) put(call int32, place int) {
	if p.history == nil {
		return
	}
	if p.n == 0 {
		p.first = place
	}
	p.of[call] = int32(place) + 1
	p.n++
}

// dones returns a list of n by done, or nil if that is not known. It is good until
// the next one.
func (p *places) dones(n int) []int32 {
	if p.history == nil || p.n == 0 || p.first+p.n != n {
		return nil
	}
	p.order = p.order[:0]
	for i := range p.first {
		p.order = append(p.order, int32(i))
	}
	for _, call := range p.history.byDone {
		if place := p.of[call]; place > 0 {
			p.order = append(p.order, place-1)
		}
	}
	return p.order
}
