// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math"

	"github.com/bucketring/bucketring/internal/keypath"
)

// partition is the state of one partition of the key space. It is not safe for
// concurrent use: the engine calls it under the shard's lock. Its methods do not block.
type partition struct {
	// What every call reads. It fits into the cache lines of the lock.
	engine  *Engine // never changes
	mono    int64   // latest time seen
	nextDue int64   // a lower bound of when work is due, see runDue
	seq     uint64  // number of the last change
	records directory
	*memory
}

// memory is the part of a partition that not every call needs. Its fields are in lines of
// the CPU's cache: a slab is one line, and each comment begins a new one.
type memory struct {
	// What every call with an id reads.
	accounts   accounts // of the roots with remembered ids
	idQuota    int
	snapshot   *snapshot // in progress, or nil
	idsDue     int64     // when runDue visits the ended ids next
	idsNext    int64     // the first due time that the current visit has left
	dueAccount uint32    // where the current visit continues, or 0
	expired    uint32    // entries whose lease expired
	// One line each.
	entries      slab[idEntry]
	reservations slab[reservation]
	handles      slab[uint32] // -> id of the record
	timelines    slab[timelines]
	// What else is read for ids and reservations.
	ids            idIndex // of entries by request id
	keyQuota       int
	trimmed        int          // chunks of the slabs that the sweep has trimmed after sweptRecord
	leaseHeap      []uint32     // entries of live reservations by due
	spareTimelines [][]timeline // for reuse
	clockHand      uint32       // the record that evict examined last
	sweptRecord    uint32       // the record that the sweep visited last
	// extras has those of the progress of reservations, by id, if there are any. Few have
	// some, so they do not take room in every reservation.
	extras map[uint32]extras
	terms  sharedTerms

	charges      slab[chargeBlock]
	bucketBlocks slab[bucketBlock]
	names        slab[nameBlock]
	rings        slab[ring]
	roots        rootSizes
	stats        partitionStats
	changes      changes      // since they are tracked
	reading      *StateWriter // of the message in progress, or nil
	slices       uint32       // entries of slices
	credits      uint32       // records of credits
	labels       uint32       // reservations with a label
	forLedger    *ledgerMemory
	lastUsage    *usageCounter // the one used last, or nil
}

func newPartition(e *Engine) partition {
	return partition{engine: e, memory: &memory{roots: rootSizes{of: map[uint64]uint32{}}, idsDue: math.MaxInt64, idsNext: math.MaxInt64}}
}

// assessment is one limit of the request that is being decided.
type assessment struct {
	limit     *limit
	bucket    *bucket // in rec, else newBucket
	rec       *record // nil if there is no record yet
	ring      *ring
	cost      int64
	headroom  int64  // that the class of the request must leave free
	recordID  uint32 // of rec
	pos       uint8  // of bucket in rec
	level     uint8  // index in the plan's levels
	model     bool
	skipped   bool   // a check does not charge concurrency limits
	credit    int64  // left of its credit, see Engine.Grant
	credited  int64  // the part of the cost that comes from the credit
	reason    Reason // why the cost is denied
	newBucket bucket
}

// takesCost reports whether an admitted request is charged the cost.
func (a *assessment) takesCost() bool { return a.reason == NoReason && !a.skipped }

// assemble lists in d the limits of a plan with their state as of now, and reports
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
	class := r.class()
	for i := range r.Plan.Count {
		level := &r.Plan.Levels[i]
		if level.Limits != nil {
			allExist = p.assembleSet(d, level.Limits.schema, r.Key[:level.End], "", uint8(i), class, now) && allExist
		}
		if level.Model != nil {
			allExist = p.assembleSet(d, level.Model.schema, r.Key[:level.End], r.stateModel(), uint8(i), class, now) && allExist
		}
	}
	return allExist
}

func (p *partition) assembleSet(d *Decision, s *schema, scope, model string, level uint8, class Priority, now Time) bool {
	if len(s.limits) == 0 {
		return true
	}
	recordID, rec := p.find(scope, model)
	var m *mapping
	if rec != nil {
		p.advanceTo(rec, s, now)
		if rec.schema != s.id {
			m = p.migrate(rec, recordID, s, now)
		}
	}
	from := len(d.assessments)
	d.assessments = d.assessments[:from+len(s.limits)]
	for i, l := range s.limits {
		a := &d.assessments[from+i]
		a.limit, a.rec, a.recordID, a.pos, a.level, a.model = l, rec, recordID, uint8(i), level, model != ""
		a.ring, a.reason, a.credit, a.headroom = nil, NoReason, 0, l.headroom[class]
		if p.records.first.credited {
			a.credit = p.creditLeft(scope, model, l, now)
		}
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

// assess sets the cost and the reason of every assessment for that many output tokens
// per choice. It reports whether an enforced limit denies the request, and whether a
// smaller output may help: some of the denying limits depend on the output, and all of
// those are set to degrade.
func (p *partition) assess(d *Decision, r *Request, output int64, reserve bool) (denied, shrink bool, err error) {
	var v vector
	var lastMode Estimate
	var lastLevel uint8
	unpriced := !r.Plan.Rates.Priced && !r.Force && (r.InputTokens > 0 || output > 0)
	rigid := false
	for i := range d.assessments {
		a := &d.assessments[i]
		l := a.limit
		if i == 0 || a.level != lastLevel {
			lastLevel = a.level
			mode := Estimate{}
			if reserve {
				mode = r.Plan.Levels[a.level].Estimate
			}
			if i == 0 || mode != lastMode {
				lastMode = mode
				if err := r.cost(&r.Plan.Rates, mode, output, reserve, &v); err != nil {
					return false, false, err
				}
			}
		}
		if l.dim == dimCustom {
			a.cost, _ = customCost(r.Costs, l.Dimension)
		} else {
			a.cost = v[l.dim]
		}
		a.skipped = l.dim == dimConcurrent && !reserve
		a.reason, a.credited = NoReason, 0
		switch {
		case a.skipped:
			continue
		case unpriced && l.dim == dimSpend:
			a.reason = NoPrice
		case l.fits(*a.bucket, a.ring, a.cost, a.headroom):
			continue
		case r.Force:
			if err := l.checkRange(l.used(*a.bucket, a.ring), a.cost); err != nil {
				return false, false, err
			}
			continue
		case a.credit > 0 && a.takeCredit():
			continue
		default:
			a.reason = l.denialReason(a.cost, r.class())
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

// grantStep divides every reduced grant.
const grantStep = 16

// leastSteps returns the least output that may be granted, in steps of grantStep.
func (r *Request) leastSteps(requested int64) int64 {
	minimum := r.MinOutputTokens
	if minimum == 0 {
		minimum = max(256, requested/8)
	}
	return (max(minimum, 1) + grantStep - 1) / grantStep
}

// leastGrant returns the least output that may be granted.
func (r *Request) leastGrant(requested int64) int64 {
	return min(r.leastSteps(requested)*grantStep, requested)
}

// shrink searches the largest output that every limit admits, a multiple of grantStep
// below the one asked for. It leaves the assessments set for that output or, if there
// is none, for the smallest that could be granted.
func (p *partition) shrink(d *Decision, r *Request, requested int64) (granted int64, ok bool, err error) {
	lo := r.leastSteps(requested)
	hi := (requested - 1) / grantStep
	try := func(output int64) bool {
		denied, _, e := p.assess(d, r, output, true)
		if err == nil {
			err = e
		}
		return err == nil && !denied
	}
	if least := r.leastGrant(requested); lo > hi || !try(least) {
		try(least)
		return 0, false, err
	}
	lo = largest(lo, hi, func(steps int64) bool { return try(steps * grantStep) })
	try(lo * grantStep)
	return lo * grantStep, true, err
}

// createMissing creates the records that do not exist yet. If there is no room for all of
// them, it returns the nanoseconds until there may be.
func (p *partition) createMissing(d *Decision, r *Request, now Time) (wait int64) {
	for i := range d.assessments {
		if a := &d.assessments[i]; a.rec != nil {
			a.rec.pins++ // not evicted while others are created
		}
	}
	root := keypath.Root(r.Key)
	for i := range d.assessments {
		a := &d.assessments[i]
		if a.rec != nil {
			continue
		}
		scope, model, set := a.name(r)
		_, rec := p.find(scope, model)
		if rec == nil {
			var soon int64
			if _, rec, soon = p.create(root, scope, model, set.schema, now); rec == nil {
				wait = max(wait, soon)
				continue
			}
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
	return wait
}

// name returns the scope and model of the assessment's record, and its limits.
func (a *assessment) name(r *Request) (scope, model string, set *LimitSet) {
	level := &r.Plan.Levels[a.level]
	if a.model {
		return r.Key[:level.End], r.stateModel(), level.Model
	}
	return r.Key[:level.End], "", level.Limits
}
