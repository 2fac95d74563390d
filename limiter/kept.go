// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/text"
)

// MaxKept is the most reservations that a return may keep, since all of them are made in one
// critical section. So a holder has at most as many open reservations of one slice.
const MaxKept = 512

// Kept is a reservation that was made from a slice and has not ended when the slice is
// returned, see [Engine.Return].
type Kept struct {
	// Request is the reserve as it was decided. It has an ID; its Plan is not used.
	Request *Request
	// Costs are what it holds of each limit of the slice, see [Tariff.Reserve].
	Costs []int64
	// Granted is the output that was granted per choice.
	Granted int64
	// Left is how long its lease still lasts. If it is 0 or less, the lease expires at once.
	Left time.Duration
}

// checkKept returns an error unless reservations can have been made from a slice of key. That
// they fit into it is for checkSpent.
func (p *partition) checkKept(slice *idEntry, key string, kept []Kept) error {
	if n := len(kept); n > MaxKept {
		return numberError("kept", int64(n), fmt.Sprintf("must have at most %d entries", MaxKept))
	}
	limits := int(p.reservations.at(slice.reservation()).count)
	terms := p.terms.at(slice.terms())
	for i := range kept {
		k := &kept[i]
		switch r := k.Request; {
		case r.Key != key:
			return &FieldError{Field: "kept.request.key", Value: text.Quote(r.Key), Problem: "must be the key of the slice"}
		case r.ID == "":
			return &FieldError{Field: "kept.request.request_id", Value: `""`, Problem: "must not be empty"}
		case len(k.Costs) != limits:
			return &FieldError{Field: "kept.costs", Value: strconv.Itoa(len(k.Costs)), Problem: fmt.Sprintf("must have as many amounts as the slice has limits, %d", limits)}
		case k.Granted < 0 || k.Granted > MaxAmount:
			return numberError("kept.granted_output_tokens", k.Granted, "must be between 0 and "+amount.MaxText)
		}
		for _, n := range k.Costs {
			if n < 0 || n > MaxAmount {
				return numberError("kept.costs", n, "must be between 0 and "+amount.MaxText)
			}
		}
		if err := terms.checkInput(k.Request); err != nil {
			return err
		}
	}
	return nil
}

// checkInput returns an error unless the cost of the input of r can be computed, as it must be
// when its lease ends.
func (t *terms) checkInput(r *Request) error {
	var v vector
	err := t.cost(amounts{input: r.InputTokens}, extras{}, r.basis(&t.Rates, true), &v)
	if field, ok := errors.AsType[*FieldError](err); ok {
		return &FieldError{Field: "kept.request." + field.Field, Value: field.Value, Problem: field.Problem}
	}
	return err
}

// keep makes a reservation of a slice an ordinary one, charged as of now. What the slice was
// charged must have been taken back before.
func (p *partition) keep(slice *idEntry, root uint64, key string, k *Kept, now Time) {
	keyHash := xxhash.Sum64String(key)
	id, body := idKeyOf(root, k.Request.ID), bodyDigest(k.Request, keyHash, true)
	_, known := p.findEntry(p.accounts.find(root), id)
	if known != nil && known.isReservation() && known.body == body && !p.isSlice(known) {
		p.stats.keptKnown++
		return
	}
	var entryID uint32
	var entry *idEntry
	if known == nil {
		entryID, entry = p.addEntry(root, id, idHeld)
	}
	if entry == nil {
		p.stats.keptCharged++
		p.chargeCosts(slice, key, k.Costs, now)
		p.countForGood(root, slice, k)
		return
	}
	p.stats.kept++
	entry.body, entry.value[1] = body, k.Granted
	entry.set(flagPermanent) // its caller has the answer
	p.holdKept(entryID, slice, keyHash, k, now)
	var it chargeIterator
	i := 0
	for it.start(p, slice, key); it.next(); i++ {
		p.chargeKept(entry, &it, k, i, now)
	}
	if k.Left <= 0 {
		p.expire(entryID, now)
	}
}

// holdKept gives the new entry of k its reservation, without charges, and starts its lease.
func (p *partition) holdKept(entryID uint32, slice *idEntry, keyHash uint64, k *Kept, now Time) {
	r, entry := k.Request, p.entries.at(entryID)
	of := *p.terms.at(slice.terms())
	reservationID, res := p.reservations.alloc()
	entry.setReservation(reservationID, p.terms.share(&of.Rates, r.basis(&of.Rates, true), of.tier, of.version))
	ttl := r.TTL
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	res.keyHash, res.ttl, res.input, res.estimated = keyHash, int64(ttl), r.InputTokens, r.EstimatedInput
	p.labelReservation(entry, r, now)
	entry.due = satAdd(int64(min(max(k.Left, 0), ttl)), now.Mono)
	p.heapPush(entryID)
}

// countForGood counts a reservation that is not kept: its estimate is what it is charged.
func (p *partition) countForGood(root uint64, slice *idEntry, k *Kept) {
	terms, r := p.terms.at(slice.terms()), k.Request
	n, err := Estimate{}.amounts(r.InputTokens, k.Granted, max(r.Choices, 1))
	var v vector
	if err == nil && terms.cost(n, extras{}, r.basis(&terms.Rates, true), &v) == nil {
		p.countUse(root, slice, Used{}, usedBy(n, &v, &terms.Rates))
	}
}

// chargeCosts charges the costs of a reservation that is not kept for good.
func (p *partition) chargeCosts(slice *idEntry, key string, costs []int64, now Time) {
	var it chargeIterator
	i := 0
	for it.start(p, slice, key); it.next(); i++ {
		if it.pins {
			p.chargeFinal(&it, costs[i], now)
		}
	}
}

// chargeKept charges k for limit i of the slice from which it was made, as chargeAll does.
// entry is that of k, and it is at the charge of the slice.
func (p *partition) chargeKept(entry *idEntry, it *chargeIterator, k *Kept, i int, now Time) {
	c := p.appendCharge(entry, int(it.block.scopeEnd[it.i])+1)
	l, b, cost := it.limit, it.bucket, k.Costs[i]
	c.limit, c.handle, c.estimate, c.at = l.id, it.charge.handle, cost, notCharged
	if !it.pins || b == nil || l.Shadow && !l.fits(*b, p.ringOf(l, *b, now), cost, 0) {
		return
	}
	var dropped int64
	if l.Algorithm == TokenBucket {
		before := b.level()
		dropped = l.excessDebt(cost, before, before.add(mulWide(cost, l.window)), k.Request.EstimatedInput)
		p.stats.overrun(l, dropped)
		c.at = p.openMark(it.rec, it.pos)
	} else {
		c.at = l.currentPeriod(*b, now)
	}
	it.rec.pins++
	c.estimate, c.charged, c.dropped = cost-dropped, cost, dropped
	if cost > dropped {
		l.charge(b, p.ensureRing(l, b, now), cost-dropped)
	}
}
