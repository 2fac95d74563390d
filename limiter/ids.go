// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// idKey identifies a request id under a root with 96 bits.
type idKey struct {
	hash uint64
	more uint32
}

// idEntry is a remembered request id. It tells a repeat from a conflict, and a repeat
// what was decided. It has no pointers and takes 64 bytes.
type idEntry struct {
	hash uint64 // with more: the idKey
	more uint32
	body uint32 // digest of the request
	due  int64  // Mono: end of a live lease, else of the retention
	// value depends on the state. A check keeps its costs in tokens and spend, which
	// depend on the policy; its other costs are in the request. A count keeps the usage
	// and the end of its window. A reservation keeps its id in
	// partition.reservations, and its grant.
	value [2]int64
	next  uint32 // entry in its idQueue; of a live reservation, the position in leaseHeap
	owner uint32 // account<<8 | flags
	// attempts are the tags of the attempts that got the answer and may be withdrawn;
	// 0 = none. See attemptTag. The client library makes up to three.
	attempts [4]uint32
}

// The flags of an entry: its state, and more bits. Only reservations are degraded.
const (
	stateMask     = 7
	flagDegraded  = 1 << 3
	flagPermanent = 1 << 4 // an attempt that cannot be withdrawn got the answer
)

// idState is the state of an entry. The last four are reservations.
type idState uint32

const (
	idForgotten idState = iota // only keeps its place in a queue
	idCheck
	idCount
	idWithdrawal
	idHeld
	idSettled
	idCancelled
	idExpired
)

func (entry *idEntry) state() idState      { return idState(entry.owner & stateMask) }
func (entry *idEntry) account() uint32     { return entry.owner >> 8 }
func (entry *idEntry) isReservation() bool { return entry.state() >= idHeld }
func (entry *idEntry) is(flag uint32) bool { return entry.owner&flag != 0 }
func (entry *idEntry) set(flag uint32)     { entry.owner |= flag }
func (entry *idEntry) setState(s idState)  { entry.owner = entry.owner&^stateMask | uint32(s) }
func (entry *idEntry) key() idKey          { return idKey{entry.hash, entry.more} }
func (entry *idEntry) reservation() uint32 { return uint32(entry.value[0]) }
func (entry *idEntry) granted() int64      { return entry.value[1] }

// status returns the status of a reservation, else NoStatus.
func (entry *idEntry) status() Status {
	if !entry.isReservation() {
		return NoStatus
	}
	return Status(entry.state()-idHeld) + Held
}

// canChange reports whether the charges of a reservation may still change.
func (entry *idEntry) canChange() bool { return entry.state() == idHeld || entry.state() == idExpired }

func (entry *idEntry) outcome() Outcome {
	if entry.is(flagDegraded) {
		return Degraded
	}
	return Allowed
}

// reservation is the part of an id entry that only reservations have.
type reservation struct {
	keyHash  uint64
	ttl      int64   // lease; of a settled one, the digest of its final settle
	input    int64   // estimate
	progress amounts // highest so far
	version  uint64  // of the policy that decided
	rates    uint32  // in partition.rates
	tier     uint32  // id of its name<<8 | number of charges
	block    chargeBlock
}

func (res *reservation) tierID() uint32 { return res.tier >> 8 }

func (res *reservation) chargeCount() int { return int(res.tier & 0xff) }

// charge is one limit of a reservation, and what it was charged.
type charge struct {
	handle   uint32 // of its record
	limit    uint32 // id at the time of the decision
	estimate int64
	charged  int64 // current charge, including dropped
	dropped  int64 // what exceeded the bucket's maximum debt
	at       int64 // a token bucket's mark, a fixed window's end, or a sub-window; or notCharged
}

// notCharged is the charge.at of a shadow limit that the request exceeded.
const notCharged = -1 << 63

func (c *charge) exceeded() bool { return c.at == notCharged }

const chargesPerBlock = 4

// chargeBlock is a list of charges with the end of each one's scope in the key. The
// first is part of the reservation.
type chargeBlock struct {
	charges  [chargesPerBlock]charge
	next     uint32
	scopeEnd [chargesPerBlock]uint8 // less 1
}

// How long ids are remembered, in nanoseconds.
const (
	checkRetention = 30e9  // after a check, a cancel or a withdrawal
	endedRetention = 600e9 // after the end of a reservation, or a forced check
)

// idKeyOf returns the key of a request id under the root with that hash: two independent
// hashes of both.
func idKeyOf(root uint64, id string) idKey {
	h, more := root^uint64(len(id)), ^root
	for ; len(id) >= 8; id = id[8:] {
		w := word(id)
		h, more = mix(h, w), mix(more, bits.ReverseBytes64(w))
	}
	last := uint64(0)
	for i := range len(id) {
		last |= uint64(id[i]) << (8 * i)
	}
	return idKey{mix(h, last), uint32(mix(more, ^last))}
}

// word returns the first 8 bytes of s as a number.
func word(s string) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 | uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// mix folds n into a digest.
func mix(h, n uint64) uint64 {
	hi, lo := bits.Mul64(h^0xa0761d6478bd642f, n^0xe7037ed1a0b428db)
	return hi ^ lo
}

func mixString(h uint64, s string) uint64 {
	if s == "" {
		return mix(h, 0)
	}
	return mix(h, xxhash.Sum64String(s))
}

func mixCosts(h uint64, costs []Cost) uint64 {
	var sum uint64 // does not depend on the order
	for i := range costs {
		sum += mix(xxhash.Sum64String(string(costs[i].Dimension)), uint64(costs[i].Amount))
	}
	return mix(h, sum)
}

// bodyDigest identifies the body of a request, to detect another one with the same id.
func bodyDigest(r *Request, reserve bool) uint32 {
	h := mixString(uint64(boolInt(reserve)), r.Key)
	h = mixString(h, r.Tier)
	h = mixString(h, r.Model)
	h = mix(h^uint64(r.Requests), uint64(r.InputTokens))
	h = mix(h^uint64(r.OutputTokens), uint64(r.MinOutputTokens))
	h = mix(h^uint64(r.Choices), uint64(r.TTL))
	return uint32(mixCosts(h, r.Costs))
}

// finalDigest identifies the numbers of a final settle, to detect another one with
// different numbers.
func finalDigest(u *Usage) int64 {
	h := uint64(1)
	for _, n := range [...]int64{max(u.InputTokens, -1), max(u.CachedInputTokens, 0), max(u.OutputTokens, -1)} {
		h = mix(h, uint64(n))
	}
	return int64(mixCosts(h, u.Costs))
}

// findEntry returns the entry of an id, or nil. It forgets an id whose retention is
// over, so that ids die on time however late their memory is freed.
func (p *partition) findEntry(account uint32, k idKey) (uint32, *idEntry) {
	entryID, entry := p.lookUp(account, k)
	if entry != nil && entry.due <= p.mono && entry.state() != idHeld {
		p.buryEntry(entryID)
		return 0, nil
	}
	return entryID, entry
}

// lookUp returns the entry of an id, or nil, whether its retention is over or not.
func (p *partition) lookUp(account uint32, k idKey) (uint32, *idEntry) {
	if account == 0 {
		return 0, nil
	}
	h := p.engine.position(k)
	t := p.ids.table(h)
	if t.n == 0 {
		return 0, nil
	}
	for pos := t.home(h); t.cells[pos] != 0; pos = t.after(pos) {
		cell := t.cells[pos]
		if uint32(cell>>32) != h {
			continue
		}
		entryID := uint32(cell)
		entry := p.entries.at(entryID)
		if entry.hash != k.hash || entry.more != k.more || entry.account() != account {
			continue
		}
		return entryID, entry
	}
	return 0, nil
}

// position returns the hash of an id in the index. It is seeded per engine, so that
// callers cannot choose ids that collide.
func (e *Engine) position(k idKey) uint32 { return uint32(mix(k.hash, e.idSeed)) }

// addEntry adds an entry for an id of a root, which must have none, if the root's share
// has room or room can be made. It returns nil if it cannot.
func (p *partition) addEntry(root uint64, k idKey, s idState) (uint32, *idEntry) {
	account := p.accounts.ensure(root)
	if account == 0 || !p.takeID(account) {
		p.accounts.release(account)
		return 0, nil
	}
	return p.insertEntry(account, k, s)
}

// insertEntry adds an entry for which room has been taken.
func (p *partition) insertEntry(account uint32, k idKey, s idState) (uint32, *idEntry) {
	entryID, entry := p.entries.alloc()
	entry.hash, entry.more, entry.owner = k.hash, k.more, account<<8|uint32(s)
	p.ids.insert(p.engine.position(k), entryID)
	p.idAdded(entryID)
	a := p.accounts.at(account)
	a.n++
	if s == idWithdrawal {
		a.withdrawals++
	}
	return entryID, entry
}

// chargeCount returns the number of charges of a reservation.
func (p *partition) chargeCount(entry *idEntry) int {
	if !entry.isReservation() {
		return 0
	}
	return p.reservations.at(entry.reservation()).chargeCount()
}

// chargeBlockOf returns the block of charge i of a reservation, and its position there.
func (p *partition) chargeBlockOf(entry *idEntry, i int) (*chargeBlock, int) {
	block := &p.reservations.at(entry.reservation()).block
	for ; i >= chargesPerBlock; i -= chargesPerBlock {
		block = p.charges.at(block.next)
	}
	return block, i
}

// chargeAt returns charge i of a reservation.
func (p *partition) chargeAt(entry *idEntry, i int) *charge {
	block, i := p.chargeBlockOf(entry, i)
	return &block.charges[i]
}

// scope returns the scope of charge i of a reservation of key.
func (p *partition) scope(entry *idEntry, i int, key string) string {
	block, i := p.chargeBlockOf(entry, i)
	return key[:min(int(block.scopeEnd[i])+1, len(key))]
}

// appendCharge appends a zero charge to a reservation. key[:scopeEnd] is its scope.
func (p *partition) appendCharge(res *reservation, scopeEnd int) *charge {
	i := res.chargeCount()
	res.tier++
	block := &res.block
	for ; i >= chargesPerBlock; i -= chargesPerBlock {
		if block.next == 0 {
			block.next, _ = p.charges.alloc()
		}
		block = p.charges.at(block.next)
	}
	block.scopeEnd[i] = uint8(scopeEnd - 1)
	return &block.charges[i]
}

// eachPendingCharge calls f for every charge to a bucket of rec that may still change.
func (p *partition) eachPendingCharge(rec *record, bucketID uint32, f func(*charge)) {
	if rec.pins == 0 {
		return
	}
	visit := func(entryID uint32) {
		entry := p.entries.at(entryID)
		for i := range p.chargeCount(entry) {
			c := p.chargeAt(entry, i)
			if c.handle == rec.handle && c.pinsRecord(entry) && p.engine.catalog.limit(c.limit).bucketID == bucketID {
				p.beforeIDChanges(entryID)
				f(c)
			}
		}
	}
	for _, entryID := range p.leaseHeap {
		visit(entryID)
	}
	if p.expired == 0 {
		return
	}
	for entryID := p.entries.next(0); entryID != 0; entryID = p.entries.next(entryID) {
		if p.entries.at(entryID).state() == idExpired {
			visit(entryID)
		}
	}
}

// deleteEntry removes an entry that is in no queue. Its charges must be final.
func (p *partition) deleteEntry(entryID uint32) {
	entry := p.entries.at(entryID)
	account := entry.account()
	p.freeEntryParts(entryID, entry)
	p.entries.free(entryID)
	p.engine.ids.release(&p.idQuota)
	p.accounts.at(account).n--
	p.accounts.release(account)
}

// buryEntry forgets the id of an ended entry but leaves its place in its queue, of which
// only the head can be removed.
func (p *partition) buryEntry(entryID uint32) {
	entry := p.entries.at(entryID)
	p.freeEntryParts(entryID, entry)
	*entry = idEntry{due: entry.due, next: entry.next, owner: entry.account() << 8}
}

// freeEntryParts frees what an entry refers to. The charges of an expired reservation
// become final.
func (p *partition) freeEntryParts(entryID uint32, entry *idEntry) {
	if entry.state() == idForgotten {
		return
	}
	p.beforeIDChanges(entryID)
	switch entry.state() {
	case idExpired:
		p.finalizeCharges(entry)
		p.expired--
	case idWithdrawal:
		p.accounts.at(entry.account()).withdrawals--
	}
	p.ids.remove(p.engine.position(entry.key()), entryID)
	if !entry.isReservation() {
		return
	}
	res := p.reservations.at(entry.reservation())
	for blockID := res.block.next; blockID != 0; {
		next := p.charges.at(blockID).next
		p.charges.free(blockID)
		blockID = next
	}
	p.rates.release(res.rates)
	p.reservations.free(entry.reservation())
}
