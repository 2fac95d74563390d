// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// hold is a remembered request id: the answer it got and, for a reservation,
// what it charged where.
type idEntry struct {
	id        [2]uint64
	body      uint64 // digest of the request
	due       int64  // Mono: a live lease's end, else when to forget
	next      uint32 // in the queue of ids to forget
	heapIndex uint32 // position in the heap of live leases

	reservationID uint32  // number of its lease; 0 for a check
	charges       uint32  // first block
	chargeCount   uint8   // touches
	outcome       Outcome // 0: see vacant
	status        Status
	binding       int16
	tier          uint32
	version       uint64
	granted       int64
}

// lease is the part of a reservation that a check does not have.
type reservation struct {
	keyHash     uint64 // hash
	ttl         int64
	rates       Rates
	input       int64   // estimate
	progress    amounts // highest progress
	finalDigest uint64  // digest of the final settle

	attempts attemptSet
}

// touch is one limit of a remembered answer, and what the call charged to it.
type charge struct {
	handle    uint32 // of its record; 0 for a check, whose charges are final
	limit     uint32 // as answered
	estimate  int64
	charged   int64  // as of now, dropped included
	dropped   int64  // what a bucket's debt had no room for
	at        int64  // where in time: a bucket's mark, a window's end, a ring's sub-window
	remaining int64  // as answered; negative is debt
	reset     int64  // as answered, wall
	scopeEnd  uint16 // key[:end] is the scope
	exceeded  bool   // refused in shadow, and not charged
}

func (c *charge) scope(key string) string { return key[:min(int(c.scopeEnd), len(key))] }

const chargesPerBlock = 4

type chargeBlock struct {
	charges [chargesPerBlock]charge
	next    uint32
}

// remembered is how long answers are kept, in nanoseconds.
const (
	checkRetention = 30e9
	endedRetention = 600e9
)

// idHash is the identity of a request id under a root.
func idHash(root uint64, id string) [2]uint64 {
	var d xxhash.Digest
	d.ResetWithSeed(root)
	_, _ = d.WriteString(id)
	a := d.Sum64()
	return [2]uint64{a, mix(a^root, xxhash.Sum64String(id))}
}

// mix folds n into a digest.
func mix(h, n uint64) uint64 {
	hi, lo := bits.Mul64(h^0xa0761d6478bd642f, n^0xe7037ed1a0b428db)
	return hi ^ lo
}

func mixString(h uint64, s string) uint64 { return mix(h, xxhash.Sum64String(s)) }

func mixCosts(h uint64, costs []Cost) uint64 {
	var sum uint64 // whatever their order
	for i := range costs {
		sum += mix(xxhash.Sum64String(string(costs[i].Dimension)), uint64(costs[i].Amount))
	}
	return mix(h, sum)
}

// bodyDigest tells a repeated request from another one with the same id.
func bodyDigest(r *Request, reserve bool) uint64 {
	h := mixString(uint64(boolInt(reserve)), r.Key)
	h = mixString(h, r.Tier)
	h = mixString(h, r.Model)
	for _, n := range [...]int64{r.Requests, r.InputTokens, r.OutputTokens, r.MinOutputTokens, r.Choices, int64(r.TTL)} {
		h = mix(h, uint64(n))
	}
	return mixCosts(h, r.Costs)
}

// finalDigest tells a repeated final settle from one with other numbers.
func finalDigest(u *Usage) uint64 {
	h := uint64(1)
	for _, n := range [...]int64{max(u.InputTokens, -1), max(u.CachedInputTokens, 0), max(u.OutputTokens, -1)} {
		h = mix(h, uint64(n))
	}
	return mixCosts(h, u.Costs)
}

func (p *partition) findEntry(id [2]uint64) (uint32, *idEntry) {
	if p.ids.n == 0 {
		return 0, nil
	}
	h := uint32(id[0])
	mask := uint32(len(p.ids.cells) - 1)
	for pos := h & mask; p.ids.cells[pos] != 0; pos = (pos + 1) & mask {
		if v := p.ids.cells[pos]; uint32(v>>32) == h {
			if entry := p.entries.at(uint32(v)); entry.id == id {
				return uint32(v), entry
			}
		}
	}
	return 0, nil
}

// addHold makes room for an id and returns its hold, or nil if every id in
// reach is a live reservation.
func (p *partition) addEntry(id [2]uint64) (uint32, *idEntry) {
	for !p.engine.ids.acquire(&p.idQuota) {
		if !p.evictOldestID() {
			return 0, nil
		}
		p.stats.forgotten++
	}
	entryID, entry := p.entries.alloc()
	entry.id = id
	p.ids.insert(uint32(id[0]), entryID)
	return entryID, entry
}

// touch returns the i-th touch of a hold.
func (p *partition) chargeAt(entry *idEntry, i int) *charge {
	block := p.charges.at(entry.charges)
	for ; i >= chargesPerBlock; i -= chargesPerBlock {
		block = p.charges.at(block.next)
	}
	return &block.charges[i]
}

// addTouch appends a zero touch.
func (p *partition) appendCharge(entry *idEntry) *charge {
	i := int(entry.chargeCount)
	entry.chargeCount++
	next := &entry.charges
	for ; i >= chargesPerBlock; i -= chargesPerBlock {
		next = &p.charges.at(*next).next
	}
	if *next == 0 {
		*next, _ = p.charges.alloc()
	}
	return &p.charges.at(*next).charges[i]
}

// eachTouch visits the charges to slot of a record that may still change.
func (p *partition) eachPendingCharge(rec *record, bucketID uint32, f func(*charge)) {
	if rec.pins == 0 {
		return
	}
	for entryID := p.entries.next(0); entryID != 0; entryID = p.entries.next(entryID) {
		entry := p.entries.at(entryID)
		for i := range int(entry.chargeCount) {
			c := p.chargeAt(entry, i)
			if c.handle == rec.handle && c.pinsRecord(entry) && p.engine.catalog.limit(c.limit).bucketID == bucketID {
				f(c)
			}
		}
	}
}

// deleteHold forgets an id. Its charges are final already.
func (p *partition) deleteEntry(entryID uint32) {
	p.freeEntryParts(entryID)
	p.entries.free(entryID)
	p.engine.ids.release(&p.idQuota)
}

// vacate forgets the id of a hold that stands in a queue, where only the head can
// be taken out: the place stays. Its charges are final already.
func (p *partition) buryEntry(entryID uint32) {
	p.freeEntryParts(entryID)
	entry := p.entries.at(entryID)
	*entry = idEntry{due: entry.due, next: entry.next}
}

// vacant says whether a hold is nothing but a place in a queue.
func (entry *idEntry) isTombstone() bool { return entry.outcome == 0 }

// strip frees what belongs to a hold.
func (p *partition) freeEntryParts(entryID uint32) {
	entry := p.entries.at(entryID)
	if entry.isTombstone() {
		return
	}
	p.ids.remove(uint32(entry.id[0]), entryID)
	for blockID := entry.charges; blockID != 0; {
		next := p.charges.at(blockID).next
		p.charges.free(blockID)
		blockID = next
	}
	if entry.reservationID != 0 {
		p.reservations.free(entry.reservationID)
	}
}
