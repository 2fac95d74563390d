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
	bucketBlocks   slab[bucketBlock]
	handles        slab[uint32] // -> number of a record
	names          slab[nameBlock]
	rings          slab[ring]
	timelines      slab[timelines]
	spareTimelines [][]timeline      // to reuse
	roots          map[uint64]uint32 // records that count towards a root's cap
	clockHand      uint32            // the eviction clock's last record

	ids          index // of holds by request id
	entries      slab[idEntry]
	reservations slab[reservation]
	charges      slab[chargeBlock]
	leaseHeap    []uint32 // heap of live leases
	checks       idQueue  // answered checks
	ended        idQueue  // settled, cancelled and expired reservations

	keyQuota, idQuota int
	sweptRecord       uint32 // the sweep's last record
	stats             partitionStats
}

func newPartition(e *Engine) partition {
	return partition{engine: e, memory: &memory{roots: map[uint64]uint32{}}}
}

// item is one limit of the decision at hand.
type assessment struct {
	limit     *limit
	bucket    *bucket // in rec, or fresh
	rec       *record // nil: nothing is kept yet
	ring      *ring
	cost      int64
	recordID  uint32 // of rec
	pos       uint8  // of slot in rec
	level     uint8  // index in the plan's levels
	model     bool
	skipped   bool   // a check leaves concurrency alone
	reason    Reason // of a cost that does not fit
	newBucket bucket
}

// charged says whether an admitted call takes the item's cost.
func (a *assessment) takesCost() bool { return a.reason == NoReason && !a.skipped }

// gather collects in d the limits of a plan with their state as of now, and says
// whether every record exists.
func (p *partition) assemble(d *Decision, r *Request, now Time) (allExist bool) {
	need := 0
	for i := range r.Plan.Count {
		need += r.Plan.Levels[i].Limits.size() + r.Plan.Levels[i].Model.size()
	}
	if cap(d.assessments) < need {
		d.assessments = make([]assessment, 0, max(need, 8))
	}
	d.assessments = d.assessments[:0]
	allExist = true
	for i := range r.Plan.Count {
		level := &r.Plan.Levels[i]
		if level.Limits != nil {
			allExist = p.assembleSet(d, level.Limits.schema, r.Key[:level.End], "", uint8(i), now) && allExist
		}
		if level.Model != nil {
			allExist = p.assembleSet(d, level.Model.schema, r.Key[:level.End], r.stateModel(), uint8(i), now) && allExist
		}
	}
	return allExist
}

func (p *partition) assembleSet(d *Decision, s *schema, scope, model string, level uint8, now Time) bool {
	if len(s.limits) == 0 {
		return true
	}
	recordID, rec := p.find(scope, model)
	var m *mapping
	if rec != nil {
		p.advanceTo(rec, s, now)
		if rec.schema != s.id {
			m = p.migrate(rec, s, now)
		}
	}
	from := len(d.assessments)
	d.assessments = d.assessments[:from+len(s.limits)]
	for i, l := range s.limits {
		a := &d.assessments[from+i]
		a.limit, a.rec, a.recordID, a.pos, a.level, a.model = l, rec, recordID, uint8(i), level, model != ""
		a.ring, a.reason = nil, NoReason
		switch {
		case rec == nil:
			a.newBucket, a.bucket = bucket{}, &a.newBucket
			l.advance(a.bucket, nil, 0, now)
			continue
		case m != nil:
			a.pos = m.positions[i]
		}
		if a.pos < bucketsPerRecord {
			a.bucket = &rec.buckets[a.pos]
		} else {
			a.bucket = p.bucketAt(rec, int(a.pos))
		}
		if l.Algorithm == SlidingWindow {
			a.ring = p.ringOf(l, *a.bucket, now)
		}
	}
	return rec != nil
}

// assess sets the cost of every item for output tokens per choice, and whether
// it fits. It says whether an enforced limit refuses, and whether a smaller
// output may help: some limits refuse for its sake, and all those would rather
// degrade.
func (p *partition) assess(d *Decision, r *Request, output int64, reserve bool) (denied, shrink bool, err error) {
	var v vector
	var lastMode Estimate
	unpriced := !r.Plan.Rates.Priced && !r.Force && (r.InputTokens > 0 || output > 0)
	rigid := false
	for i := range d.assessments {
		a := &d.assessments[i]
		l := a.limit
		mode := Estimate{}
		if reserve {
			mode = r.Plan.Levels[a.level].Estimate
		}
		if i == 0 || mode != lastMode {
			lastMode = mode
			if err := r.cost(mode, output, reserve, &v); err != nil {
				return false, false, err
			}
		}
		if l.dim == dimCustom {
			a.cost, _ = customCost(r.Costs, l.Dimension)
		} else {
			a.cost = v[l.dim]
		}
		a.skipped = l.dim == dimConcurrent && !reserve
		a.reason = NoReason
		switch {
		case a.skipped:
			continue
		case unpriced && l.dim == dimSpend:
			a.reason = NoPrice
		case l.fits(*a.bucket, a.ring, a.cost):
			continue
		case r.Force:
			if err := l.checkRange(l.used(*a.bucket, a.ring), a.cost); err != nil {
				return false, false, err
			}
			continue
		default:
			a.reason = l.denialReason(a.cost)
		}
		if l.Shadow {
			continue
		}
		denied = true
		if l.touchesOutput() {
			shrink = true
			rigid = rigid || !l.Degrade || l.Closed || a.reason == NoPrice
		}
	}
	return denied, shrink && !rigid, nil
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
		denied, _, e := p.assess(d, r, output, true)
		if err == nil {
			err = e
		}
		return err == nil && !denied
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
func (p *partition) createMissing(d *Decision, r *Request, now Time) bool {
	for i := range d.assessments {
		if a := &d.assessments[i]; a.rec != nil {
			a.rec.pins++ // stays while others are made
		}
	}
	root, failed := rootOf(r.Key), 0
	for i := range d.assessments {
		a := &d.assessments[i]
		if a.rec != nil {
			continue
		}
		scope, model, set := a.name(r)
		_, rec := p.find(scope, model)
		if rec == nil {
			rec = p.create(root, scope, model, set.schema, now)
		}
		if rec == nil {
			failed++
			continue
		}
		rec.pins++
	}
	for i := range d.assessments {
		a := &d.assessments[i]
		isNew := a.rec == nil
		scope, model, _ := a.name(r)
		if a.recordID, a.rec = p.find(scope, model); a.rec == nil {
			continue
		}
		a.rec.pins--
		a.bucket = p.bucketAt(a.rec, int(a.pos))
		if isNew {
			*a.bucket = a.newBucket
		}
	}
	return failed == 0
}

// name returns the names of an item's record, and the limits it belongs to.
func (a *assessment) name(r *Request) (scope, model string, set *LimitSet) {
	level := &r.Plan.Levels[a.level]
	if a.model {
		return r.Key[:level.End], r.stateModel(), level.Model
	}
	return r.Key[:level.End], "", level.Limits
}

func rootOf(key string) string {
	root, _, _ := strings.Cut(key, "/")
	return root
}

func hashRoot(root string) uint64 { return xxhash.Sum64String(root) }
