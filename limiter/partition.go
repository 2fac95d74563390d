// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"strings"

	"github.com/cespare/xxhash/v2"
)

// partition is the state of one hash slot. It is not safe for concurrent use:
// the engine calls it under the slot's lock, and nothing in it blocks.
type partition struct {
	// What every call reads, in the two cache lines of the lock.
	engine  *Engine // never changes
	mono    int64   // the latest time seen
	nextDue int64   // nothing is due before; may be too early
	records directory
	*memory
}

// memory is the part of a partition that fewer calls need.
type memory struct {
	slots   slab[slotBlock]
	anchors slab[uint32] // -> number of a record
	names   slab[nameBlock]
	rings   slab[ring]
	lines   slab[lines]
	spare   [][]timeline      // to reuse
	roots   map[uint64]uint32 // records that count towards a root's cap
	hand    uint32            // the eviction clock's last record

	ids     index // of holds by request id
	holds   slab[hold]
	leases  slab[lease]
	touches slab[touchBlock]
	live    []uint32 // heap of live leases
	checks  fifo     // answered checks
	ended   fifo     // settled, cancelled and expired reservations

	keyQuota, idQuota int
	swept             uint32 // the sweep's last record
	stats             counters
}

func newPartition(e *Engine) partition {
	return partition{engine: e, memory: &memory{roots: map[uint64]uint32{}}}
}

// item is one limit of the decision at hand.
type item struct {
	limit  *limit
	slot   *slot   // in rec, or fresh
	rec    *record // nil: nothing is kept yet
	ring   *ring
	cost   int64
	no     uint32 // of rec
	pos    uint8  // of slot in rec
	level  uint8  // index in the plan's levels
	model  bool
	skip   bool   // a check leaves concurrency alone
	refuse Reason // of a cost that does not fit
	fresh  slot
}

// charged says whether an admitted call takes the item's cost.
func (it *item) charged() bool { return it.refuse == NoReason && !it.skip }

// gather collects in d the limits of a plan with their state as of now, and says
// whether every record exists.
func (p *partition) gather(d *Decision, r *Request, now Time) (complete bool) {
	need := 0
	for i := range r.Plan.Count {
		need += r.Plan.Levels[i].Limits.size() + r.Plan.Levels[i].Model.size()
	}
	if cap(d.items) < need {
		d.items = make([]item, 0, max(need, 8))
	}
	d.items = d.items[:0]
	complete = true
	for i := range r.Plan.Count {
		level := &r.Plan.Levels[i]
		if level.Limits != nil {
			complete = p.gatherSet(d, level.Limits.schema, r.Key[:level.End], "", uint8(i), now) && complete
		}
		if level.Model != nil {
			complete = p.gatherSet(d, level.Model.schema, r.Key[:level.End], r.stateModel(), uint8(i), now) && complete
		}
	}
	return complete
}

func (p *partition) gatherSet(d *Decision, s *schema, scope, model string, level uint8, now Time) bool {
	if len(s.limits) == 0 {
		return true
	}
	no, rec := p.find(scope, model)
	var v *view
	if rec != nil {
		p.advanceTo(rec, s, now)
		if rec.schema != s.id {
			v = p.fit(rec, s, now)
		}
	}
	from := len(d.items)
	d.items = d.items[:from+len(s.limits)]
	for i, l := range s.limits {
		it := &d.items[from+i]
		it.limit, it.rec, it.no, it.pos, it.level, it.model = l, rec, no, uint8(i), level, model != ""
		it.ring, it.refuse = nil, NoReason
		switch {
		case rec == nil:
			it.fresh, it.slot = slot{}, &it.fresh
			l.advance(it.slot, nil, 0, now)
			continue
		case v != nil:
			it.pos = v.pos[i]
		}
		if it.pos < slotsPerRecord {
			it.slot = &rec.slots[it.pos]
		} else {
			it.slot = p.slotAt(rec, int(it.pos))
		}
		if l.Algorithm == SlidingWindow {
			it.ring = p.ringOf(l, *it.slot, now)
		}
	}
	return rec != nil
}

// assess sets the cost of every item for output tokens per choice, and whether
// it fits. It says whether an enforced limit refuses, and whether a smaller
// output may help: some limits refuse for its sake, and all those would rather
// degrade.
func (p *partition) assess(d *Decision, r *Request, output int64, reserve bool) (refused, shrink bool, err error) {
	var v vector
	var of Estimate
	unpriced := !r.Plan.Rates.Priced && !r.Force && (r.InputTokens > 0 || output > 0)
	rigid := false
	for i := range d.items {
		it := &d.items[i]
		l := it.limit
		mode := Estimate{}
		if reserve {
			mode = r.Plan.Levels[it.level].Estimate
		}
		if i == 0 || mode != of {
			of = mode
			if err := r.cost(mode, output, reserve, &v); err != nil {
				return false, false, err
			}
		}
		if l.dim == dimOwn {
			it.cost, _ = ofDimension(r.Costs, l.Dimension)
		} else {
			it.cost = v[l.dim]
		}
		it.skip = l.dim == dimConcurrent && !reserve
		it.refuse = NoReason
		switch {
		case it.skip:
			continue
		case unpriced && l.dim == dimSpend:
			it.refuse = NoPrice
		case l.fits(*it.slot, it.ring, it.cost):
			continue
		case r.Force:
			if err := l.holds(l.used(*it.slot, it.ring), it.cost); err != nil {
				return false, false, err
			}
			continue
		default:
			it.refuse = l.refusal(it.cost)
		}
		if l.Shadow {
			continue
		}
		refused = true
		if l.touchesOutput() {
			shrink = true
			rigid = rigid || !l.Degrade || l.Closed || it.refuse == NoPrice
		}
	}
	return refused, shrink && !rigid, nil
}

// grantStep is what grants are multiples of.
const grantStep = 16

// shrink looks for the largest output, a multiple of grantStep below the one
// asked for, that every limit takes. It leaves the items assessed for that
// output or, when there is none, for the least that could be granted.
func (p *partition) shrink(d *Decision, r *Request, asked int64) (granted int64, ok bool, err error) {
	minimum := r.MinOutputTokens
	if minimum == 0 {
		minimum = max(256, asked/8)
	}
	lo := (max(minimum, 1) + grantStep - 1) / grantStep // in steps
	hi := (asked - 1) / grantStep
	try := func(output int64) bool {
		refused, _, e := p.assess(d, r, output, true)
		if err == nil {
			err = e
		}
		return err == nil && !refused
	}
	if least := min(lo*grantStep, asked); lo > hi || !try(least) {
		try(least)
		return 0, false, err
	}
	for lo < hi {
		if mid := (lo + hi + 1) / 2; try(mid * grantStep) {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	try(lo * grantStep)
	return lo * grantStep, true, err
}

// complete makes the records that a decision's items miss. It returns false,
// with nothing charged, if the table is full.
func (p *partition) complete(d *Decision, r *Request, now Time) bool {
	for i := range d.items {
		if it := &d.items[i]; it.rec != nil {
			it.rec.pins++ // stays while others are made
		}
	}
	root, missed := rootOf(r.Key), 0
	for i := range d.items {
		it := &d.items[i]
		if it.rec != nil {
			continue
		}
		scope, model, set := it.name(r)
		_, rec := p.find(scope, model)
		if rec == nil {
			rec = p.create(root, scope, model, set.schema, now)
		}
		if rec == nil {
			missed++
			continue
		}
		rec.pins++
	}
	for i := range d.items {
		it := &d.items[i]
		fresh := it.rec == nil
		scope, model, _ := it.name(r)
		if it.no, it.rec = p.find(scope, model); it.rec == nil {
			continue
		}
		it.rec.pins--
		it.slot = p.slotAt(it.rec, int(it.pos))
		if fresh {
			*it.slot = it.fresh
		}
	}
	return missed == 0
}

// name returns the names of an item's record, and the limits it belongs to.
func (it *item) name(r *Request) (scope, model string, set *LimitSet) {
	level := &r.Plan.Levels[it.level]
	if it.model {
		return r.Key[:level.End], r.stateModel(), level.Model
	}
	return r.Key[:level.End], "", level.Limits
}

func rootOf(key string) string {
	root, _, _ := strings.Cut(key, "/")
	return root
}

func hashRoot(root string) uint64 { return xxhash.Sum64String(root) }
