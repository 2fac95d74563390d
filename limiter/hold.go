// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// hold is a remembered request id: the answer it got and, for a reservation,
// what it charged where.
type hold struct {
	id   [2]uint64
	body uint64 // digest of the request
	due  int64  // Mono: a live lease's end, else when to forget
	next uint32 // in the queue of ids to forget
	heap uint32 // position in the heap of live leases

	lease   uint32  // number of its lease; 0 for a check
	touches uint32  // first block
	count   uint8   // touches
	outcome Outcome // 0: see vacant
	status  Status
	binding int16
	tier    uint32
	version uint64
	granted int64
}

// lease is the part of a reservation that a check does not have.
type lease struct {
	key   uint64 // hash
	ttl   int64
	rates Rates
	input int64   // estimate
	used  amounts // highest progress
	final uint64  // digest of the final settle

	heard heard
}

// touch is one limit of a remembered answer, and what the call charged to it.
type touch struct {
	anchor    uint32 // of its record; 0 for a check, whose charges are final
	limit     uint32 // as answered
	estimate  int64
	charged   int64  // as of now, dropped included
	dropped   int64  // what a bucket's debt had no room for
	at        int64  // where in time: a bucket's mark, a window's end, a ring's sub-window
	remaining int64  // as answered; negative is debt
	reset     int64  // as answered, wall
	end       uint16 // key[:end] is the scope
	exceeded  bool   // refused in shadow, and not charged
}

func (t *touch) scope(key string) string { return key[:min(int(t.end), len(key))] }

const touchesPerBlock = 4

type touchBlock struct {
	of   [touchesPerBlock]touch
	next uint32
}

// remembered is how long answers are kept, in nanoseconds.
const (
	rememberCheck = 30e9
	rememberEnded = 600e9
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

func (p *partition) findHold(id [2]uint64) (uint32, *hold) {
	if p.ids.n == 0 {
		return 0, nil
	}
	h := uint32(id[0])
	mask := uint32(len(p.ids.cells) - 1)
	for pos := h & mask; p.ids.cells[pos] != 0; pos = (pos + 1) & mask {
		if v := p.ids.cells[pos]; uint32(v>>32) == h {
			if x := p.holds.at(uint32(v)); x.id == id {
				return uint32(v), x
			}
		}
	}
	return 0, nil
}

// addHold makes room for an id and returns its hold, or nil if every id in
// reach is a live reservation.
func (p *partition) addHold(id [2]uint64) (uint32, *hold) {
	for !p.engine.ids.take(&p.idQuota) {
		if !p.forgetOldest() {
			return 0, nil
		}
		p.stats.forgotten++
	}
	no, x := p.holds.alloc()
	x.id = id
	p.ids.insert(uint32(id[0]), no)
	return no, x
}

// touch returns the i-th touch of a hold.
func (p *partition) touch(x *hold, i int) *touch {
	b := p.touches.at(x.touches)
	for ; i >= touchesPerBlock; i -= touchesPerBlock {
		b = p.touches.at(b.next)
	}
	return &b.of[i]
}

// addTouch appends a zero touch.
func (p *partition) addTouch(x *hold) *touch {
	i := int(x.count)
	x.count++
	next := &x.touches
	for ; i >= touchesPerBlock; i -= touchesPerBlock {
		next = &p.touches.at(*next).next
	}
	if *next == 0 {
		*next, _ = p.touches.alloc()
	}
	return &p.touches.at(*next).of[i]
}

// eachTouch visits the charges to slot of a record that may still change.
func (p *partition) eachTouch(rec *record, slot uint32, f func(*touch)) {
	if rec.pins == 0 {
		return
	}
	for no := p.holds.next(0); no != 0; no = p.holds.next(no) {
		x := p.holds.at(no)
		for i := range int(x.count) {
			t := p.touch(x, i)
			if t.anchor == rec.anchor && t.pinned(x) && p.engine.catalog.limit(t.limit).slot == slot {
				f(t)
			}
		}
	}
}

// deleteHold forgets an id. Its charges are final already.
func (p *partition) deleteHold(no uint32) {
	p.strip(no)
	p.holds.free(no)
	p.engine.ids.give(&p.idQuota)
}

// vacate forgets the id of a hold that stands in a queue, where only the head can
// be taken out: the place stays. Its charges are final already.
func (p *partition) vacate(no uint32) {
	p.strip(no)
	x := p.holds.at(no)
	*x = hold{due: x.due, next: x.next}
}

// vacant says whether a hold is nothing but a place in a queue.
func (x *hold) vacant() bool { return x.outcome == 0 }

// strip frees what belongs to a hold.
func (p *partition) strip(no uint32) {
	x := p.holds.at(no)
	if x.vacant() {
		return
	}
	p.ids.remove(uint32(x.id[0]), no)
	for b := x.touches; b != 0; {
		next := p.touches.at(b).next
		p.touches.free(b)
		b = next
	}
	if x.lease != 0 {
		p.leases.free(x.lease)
	}
}
