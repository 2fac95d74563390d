// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"strings"

	"github.com/cespare/xxhash/v2"
)

// partition is the state of one hash slot. It is not safe for concurrent use:
// the engine calls it under the slot's lock, and nothing in it blocks.
type partition struct {
	engine *Engine

	index   index // of records by name
	records slab[record]
	names   slab[nameBlock]
	rings   slab[ring]
	lines   slab[lines]
	spare   [][]timeline // timelines to reuse
	roots   map[uint64]uint32
	keys    int
	hand    uint32 // the eviction clock's last record

	ids     index // of holds by request id
	holds   slab[hold]
	leases  slab[lease]
	touches slab[touchBlock]
	live    []uint32 // heap of live leases
	checks  fifo     // answered checks
	ended   fifo     // settled, cancelled and expired reservations

	keyQuota, idQuota int
	mono              int64  // the latest time seen
	swept             uint32 // the sweep's last record
	items             []item // scratch of the decision at hand
	stats             counters
}

// item is one limit of the decision at hand.
type item struct {
	limit  *limit
	rec    *record // nil: nothing is kept yet
	no     uint32
	pos    int // slot in rec
	slot   slot
	ring   *ring
	cost   int64
	level  uint8 // index in the plan's levels
	model  bool
	skip   bool   // a check leaves concurrency alone
	refuse Reason // of a refused cost
}

// gather collects the limits of a plan with their state as of now.
func (p *partition) gather(r *Request, now Time) {
	p.items = p.items[:0]
	for i := range r.Plan.Count {
		level := &r.Plan.Levels[i]
		if level.Limits != nil {
			p.gatherSet(level.Limits.schema, r.Key[:level.End], "", uint8(i), now)
		}
		if level.Model != nil && r.Model != "" {
			p.gatherSet(level.Model.schema, r.Key[:level.End], r.Model, uint8(i), now)
		}
	}
}

func (p *partition) gatherSet(s *schema, scope, model string, level uint8, now Time) {
	if len(s.limits) == 0 {
		return
	}
	no, rec := p.find(scope, model)
	if rec == nil {
		for i, l := range s.limits {
			it := item{limit: l, pos: i, level: level, model: model != ""}
			l.advance(&it.slot, nil, 0, now)
			p.items = append(p.items, it)
		}
		return
	}
	p.advance(rec, now)
	if rec.schema == s.id {
		for i, l := range s.limits {
			p.add(item{limit: l, rec: rec, no: no, pos: i, level: level, model: model != ""}, now)
		}
		return
	}
	v := p.fit(no, rec, s, now)
	for i, l := range s.limits {
		p.add(item{limit: l, rec: rec, no: no, pos: int(v.pos[i]), level: level, model: model != ""}, now)
	}
}

func (p *partition) add(it item, now Time) {
	it.slot = *p.slotAt(it.rec, it.pos)
	it.ring = p.ringOf(it.limit, it.slot, now)
	p.items = append(p.items, it)
}

// price sets the cost of every item for a request with output tokens per
// choice. Reserve says whether the call takes slots and estimates.
func (p *partition) price(r *Request, output int64, reserve bool) error {
	var v vector
	var of Estimate
	choices := max(r.Choices, 1)
	for i := range p.items {
		it := &p.items[i]
		mode := Estimate{}
		if reserve {
			mode = r.Plan.Levels[it.level].Estimate
		}
		if i == 0 || mode != of {
			n, err := mode.amounts(r.InputTokens, output, choices)
			if err != nil {
				return err
			}
			if err := r.Plan.Rates.cost(n, &v); err != nil {
				return err
			}
			of = mode
			v[dimRequests], v[dimConcurrent] = r.Requests, boolInt(reserve)
		}
		if it.limit.dim == dimOwn {
			it.cost, _ = ofDimension(r.Costs, it.limit.Dimension)
		} else {
			it.cost = v[it.limit.dim]
		}
		it.skip = it.limit.dim == dimConcurrent && !reserve
	}
	return nil
}

// judge sets the refusal of every item and says whether an enforced one
// refuses, and whether all that do are willing to shrink the output instead.
func (p *partition) judge(r *Request) (refused, shrink bool) {
	shrink = true
	unpriced := !r.Plan.Rates.Priced && (r.InputTokens > 0 || r.OutputTokens > 0)
	for i := range p.items {
		it := &p.items[i]
		it.refuse = NoReason
		switch {
		case it.skip:
		case unpriced && it.limit.dim == dimSpend:
			it.refuse = NoPrice
		case it.limit.fits(it.slot, it.ring, it.cost):
		case it.cost > it.limit.capacity || it.limit.Amount == 0:
			it.refuse = ExceedsCapacity
		default:
			it.refuse = LimitExceeded
		}
		if it.refuse != NoReason && !it.limit.Shadow {
			refused = true
			shrink = shrink && it.limit.Degrade && it.limit.touchesOutput() && it.refuse != NoPrice
		}
	}
	return refused, refused && shrink
}

// grantStep is what grants are multiples of.
const grantStep = 16

// shrink looks for the largest output, a multiple of grantStep below the one
// asked for, that every limit takes. It leaves the items judged for that
// output or, when there is none of at least minimum, for the minimum.
func (p *partition) shrink(r *Request, asked int64) (granted int64, ok bool, err error) {
	minimum := r.MinOutputTokens
	if minimum == 0 {
		minimum = max(256, asked/8)
	}
	lo := (max(minimum, 1) + grantStep - 1) / grantStep // in steps
	hi := (asked - 1) / grantStep
	try := func(output int64) bool {
		if err == nil {
			err = p.price(r, output, true)
		}
		refused, _ := p.judge(r)
		return err == nil && !refused
	}
	if least := min(lo*grantStep, asked); lo > hi || !try(least) {
		try(least) // the answer is about the least that could be granted
		return 0, false, err
	}
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if try(mid * grantStep) {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	try(lo * grantStep)
	return lo * grantStep, true, err
}

// commit charges every item, making the records that are missing. It returns
// false, with nothing charged, if the table is full.
func (p *partition) commit(r *Request, now Time) bool {
	root := rootOf(r.Key)
	for i := range p.items {
		it := &p.items[i]
		if it.rec != nil {
			it.rec.pins++ // while others are made, this one stays
			continue
		}
		scope, model := p.nameOf(r, it)
		if it.no, it.rec = p.find(scope, model); it.rec == nil {
			level := &r.Plan.Levels[it.level]
			set := level.Limits
			if it.model {
				set = level.Model
			}
			it.no, it.rec = p.create(root, scope, model, set.schema, now)
		}
		if it.rec == nil {
			for j := range p.items[:i] {
				p.items[j].rec.pins--
			}
			return false
		}
		it.rec.pins++
	}
	for i := range p.items {
		it := &p.items[i]
		it.rec.pins--
		if it.refuse != NoReason || it.skip {
			continue
		}
		s := p.slotAt(it.rec, it.pos)
		*s = it.slot
		if it.cost > 0 {
			it.ring = p.ensureRing(it.limit, s, now)
		}
	}
	return true
}

func (p *partition) nameOf(r *Request, it *item) (scope, model string) {
	scope = r.Key[:r.Plan.Levels[it.level].End]
	if it.model {
		model = r.Model
	}
	return scope, model
}

// take charges an item's cost to its slot.
func (p *partition) take(it *item) {
	s := p.slotAt(it.rec, it.pos)
	if it.cost > 0 {
		it.limit.charge(s, it.ring, it.cost)
	}
	it.slot = *s
}

func rootOf(key string) string {
	if i := strings.IndexByte(key, '/'); i >= 0 {
		return key[:i]
	}
	return key
}

func hashRoot(root string) uint64 { return xxhash.Sum64String(root) }
