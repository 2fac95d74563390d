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
// what was decided. It has no pointers and takes 48 bytes.
type idEntry struct {
	hash uint64 // with more: the idKey
	more uint32
	body uint32 // digest of the request
	due  int64  // Mono: end of a live lease, else of the retention
	// value depends on the state. A check keeps its costs in tokens and spend, which
	// depend on the policy, and above costBits the tags of its attempts; its other costs
	// are in the request. A count keeps the usage
	// and the end of its window. A reservation keeps its id in
	// partition.reservations with that of its terms, and its grant.
	value [2]int64
	next  uint32 // entry in its idQueue; of a live reservation, the position in leaseHeap
	owner uint32 // account<<8 | flags
}

// The flags of an entry: its state, and more bits. Only reservations are degraded.
const (
	stateMask     = 7
	flagDegraded  = 1 << 3
	flagPermanent = 1 << 4 // an attempt that cannot be withdrawn got the answer
	// flagMoreCharges is set if there are blocks of charges beside the reservation's own.
	flagMoreCharges = 1 << 5
	flagListed      = 1 << 6 // is in the list of changes, after the last cut
	flagExtras      = 1 << 7 // of a reservation: its progress is in memory.extras
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
func (entry *idEntry) terms() uint32       { return uint32(entry.value[0] >> 32) }
func (entry *idEntry) granted() int64      { return entry.value[1] }

func (entry *idEntry) setReservation(reservationID, termsID uint32) {
	entry.value[0] = int64(termsID)<<32 | int64(reservationID)
}

// costBits is how many bits the largest cost has.
const costBits = 54

const costMask = 1<<costBits - 1

// tokens and spend are the costs of a check.
func (entry *idEntry) tokens() int64 { return entry.value[0] & costMask }
func (entry *idEntry) spend() int64  { return entry.value[1] & costMask }

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
func bodyDigest(r *Request, keyHash uint64, reserve bool) uint32 {
	h := mix(uint64(boolInt(reserve)), keyHash) // keys are not empty
	h = mixString(h, r.Tier)
	h = mixString(h, r.Model)
	h = mix(h^uint64(r.Requests), uint64(r.InputTokens))
	h = mix(h^uint64(r.OutputTokens), uint64(r.MinOutputTokens))
	h = mix(h^uint64(r.Choices), uint64(r.TTL))
	if r.ServiceTier != "" { // else the digest is that of versions without it
		h = mixString(h, r.ServiceTier)
	}
	if r.EstimatedInput {
		h = mix(h, 1)
	}
	if r.KnownInput != 0 {
		h = mix(h, uint64(r.KnownInput))
	}
	return uint32(mixCosts(h, r.Costs))
}

// finalDigest identifies the numbers of a final settle, to detect another one with
// different numbers.
func finalDigest(u *Usage) int64 {
	h := uint64(1)
	for _, n := range [...]int64{max(u.InputTokens, -1), max(u.CachedInputTokens, 0), max(u.OutputTokens, -1)} {
		h = mix(h, uint64(n))
	}
	if x := u.extras(); x != (extras{}) || u.ServiceTier != "" || u.Rejected { // else the digest is that of versions without them
		for _, n := range [...]int64{x.write, x.write1h, x.images, x.searches, boolInt(u.Rejected)} {
			h = mix(h, uint64(n))
		}
		h = mixString(h, u.ServiceTier)
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
	for pos := t.find(h, home(h, len(t.cells))); pos >= 0; pos = t.find(h, pos+1) {
		entryID := uint32(t.cells[pos])
		entry := p.entries.at(entryID)
		if entry.hash == k.hash && entry.more == k.more && entry.account() == account {
			return entryID, entry
		}
	}
	return 0, nil
}

// preload reads what a new id of an account will need, so that the CPU waits for all of it
// at once: its place in the index and, if there is no room left, the oldest ids.
func (p *partition) preload(account uint32, k idKey) {
	if account == 0 {
		return
	}
	sum, h := uint64(0), p.engine.position(k)
	if cells := p.ids.table(h).cells; len(cells) > 0 {
		sum += cells[home(h, len(cells))]
	}
	if p.idQuota == 0 {
		a := p.accounts.at(account)
		if a.checks.head != 0 {
			sum += p.entries.at(a.checks.head).hash
		}
		if a.ended.head != 0 {
			sum += p.entries.at(a.ended.head).hash
		}
	}
	keepRead(uint8(sum))
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
	if p.records.tracked {
		p.listEntry(entryID)
	}
	a := p.accounts.at(account)
	a.n++
	if s == idWithdrawal {
		a.withdrawals++
	}
	return entryID, entry
}

// deleteEntry removes an entry that is in no queue. Its charges must be final.
func (p *partition) deleteEntry(entryID uint32) {
	entry := p.entries.at(entryID)
	account := entry.account()
	p.freeEntryParts(entryID, entry)
	p.entries.free(entryID)
	p.idPool().release(&p.idQuota)
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
	if p.mustTellRemoval(entry) {
		p.idRemoved(entry)
	}
	switch entry.state() {
	case idExpired:
		var it chargeIterator
		for it.start(p, entry, ""); it.next(); {
			p.finalize(&it)
		}
		p.expired--
	case idWithdrawal:
		p.accounts.at(entry.account()).withdrawals--
	}
	p.ids.remove(p.engine.position(entry.key()), entryID)
	if entry.isReservation() {
		p.freeReservation(entry)
	}
}

// freeReservation frees the reservation of an entry, which must get another state.
func (p *partition) freeReservation(entry *idEntry) {
	if entry.is(flagMoreCharges) { // else the reservation, which may be out of the cache, is not read
		for blockID := p.reservations.at(entry.reservation()).block.next; blockID != 0; {
			next := p.charges.at(blockID).next
			p.charges.free(blockID)
			blockID = next
		}
	}
	p.setExtras(entry, extras{})
	p.freeLabel(entry)
	p.terms.release(entry.terms())
	p.reservations.free(entry.reservation())
}
