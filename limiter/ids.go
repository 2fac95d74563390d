// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// idEntry is a remembered request id: its decision and, for a reservation, its charges.
type idEntry struct {
	id        [2]uint64
	body      uint64 // digest of the request
	due       int64  // Mono: end of a live lease, else of the retention
	next      uint32 // entry in its idQueue
	heapIndex uint32 // position in leaseHeap

	reservationID uint32 // 0 for a check
	charges       uint32 // id of the first block
	chargeCount   uint8
	outcome       Outcome // 0 for a tombstone
	status        Status
	binding       int16
	tier          uint32
	version       uint64
	granted       int64
}

// reservation is the part of an id entry that checks do not have.
type reservation struct {
	keyHash     uint64
	ttl         int64
	rates       Rates
	input       int64      // estimate
	progress    amounts    // highest so far
	finalDigest uint64     // of the final settle
	attempts    attemptSet // that got the answer
}

// charge is one limit of a remembered decision, and what the request charged to it.
type charge struct {
	handle    uint32 // of its record; 0 for a check, whose charges are final
	limit     uint32 // id at the time of the decision
	estimate  int64
	charged   int64  // current charge, including dropped
	dropped   int64  // what exceeded the bucket's maximum debt
	at        int64  // a token bucket's mark, a fixed window's end, or a sub-window
	remaining int64  // in the decision; negative is debt
	reset     int64  // in the decision, wall
	scopeEnd  uint16 // key[:scopeEnd] is the scope
	exceeded  bool   // exceeded a shadow limit, and was not charged
}

func (c *charge) scope(key string) string { return key[:min(int(c.scopeEnd), len(key))] }

const chargesPerBlock = 4

type chargeBlock struct {
	charges [chargesPerBlock]charge
	next    uint32
}

// How long ids are remembered, in nanoseconds.
const (
	checkRetention = 30e9  // after a check
	endedRetention = 600e9 // after the end of a reservation, or a forced check
)

// idHash identifies a request id under the root with that hash.
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
	var sum uint64 // does not depend on the order
	for i := range costs {
		sum += mix(xxhash.Sum64String(string(costs[i].Dimension)), uint64(costs[i].Amount))
	}
	return mix(h, sum)
}

// bodyDigest identifies the body of a request, to detect another one with the same id.
func bodyDigest(r *Request, reserve bool) uint64 {
	h := mixString(uint64(boolInt(reserve)), r.Key)
	h = mixString(h, r.Tier)
	h = mixString(h, r.Model)
	for _, n := range [...]int64{r.Requests, r.InputTokens, r.OutputTokens, r.MinOutputTokens, r.Choices, int64(r.TTL)} {
		h = mix(h, uint64(n))
	}
	return mixCosts(h, r.Costs)
}

// finalDigest identifies the numbers of a final settle, to detect another one with
// different numbers.
func finalDigest(u *Usage) uint64 {
	h := uint64(1)
	for _, n := range [...]int64{max(u.InputTokens, -1), max(u.CachedInputTokens, 0), max(u.OutputTokens, -1)} {
		h = mix(h, uint64(n))
	}
	return mixCosts(h, u.Costs)
}

// findEntry returns the entry of an id, or nil.
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

// addEntry adds an entry for an id, and evicts the oldest id if there is no quota. It
// returns nil if all ids of the partition belong to live reservations.
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
	p.idAdded(entryID)
	return entryID, entry
}

// chargeAt returns charge i of an entry.
func (p *partition) chargeAt(entry *idEntry, i int) *charge {
	block := p.charges.at(entry.charges)
	for ; i >= chargesPerBlock; i -= chargesPerBlock {
		block = p.charges.at(block.next)
	}
	return &block.charges[i]
}

// appendCharge appends a zero charge to an entry.
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

// eachPendingCharge calls f for every charge to a bucket of rec that may still change.
func (p *partition) eachPendingCharge(rec *record, bucketID uint32, f func(*charge)) {
	if rec.pins == 0 {
		return
	}
	for entryID := p.entries.next(0); entryID != 0; entryID = p.entries.next(entryID) {
		entry := p.entries.at(entryID)
		for i := range int(entry.chargeCount) {
			c := p.chargeAt(entry, i)
			if c.handle == rec.handle && c.pinsRecord(entry) && p.engine.catalog.limit(c.limit).bucketID == bucketID {
				p.beforeIDChanges(entryID)
				f(c)
			}
		}
	}
}

// deleteEntry removes an entry. Its charges must be final.
func (p *partition) deleteEntry(entryID uint32) {
	p.freeEntryParts(entryID)
	p.entries.free(entryID)
	p.engine.ids.release(&p.idQuota)
}

// buryEntry forgets the id of an entry but leaves a tombstone in its queue, of which
// only the head can be removed. The charges must be final.
func (p *partition) buryEntry(entryID uint32) {
	p.freeEntryParts(entryID)
	entry := p.entries.at(entryID)
	*entry = idEntry{due: entry.due, next: entry.next}
}

// isTombstone reports whether the entry only keeps its place in a queue.
func (entry *idEntry) isTombstone() bool { return entry.outcome == 0 }

// freeEntryParts frees what an entry refers to.
func (p *partition) freeEntryParts(entryID uint32) {
	entry := p.entries.at(entryID)
	if entry.isTombstone() {
		return
	}
	p.beforeIDChanges(entryID)
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
