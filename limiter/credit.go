// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/keypath"
)

// A credit is kept as a counter whose window ends when the credit does. Its name has, in
// place of the window, a digest of the limit. So snapshots and messages of changes have
// credits in a form that earlier versions read and keep, although they do not use them.
//
// The count of the counter is what is left, and 1: while the credit lasts, the record has
// usage and is not removed, because a settle may give something back. The limit of the
// counter is what was granted.

// creditMark begins what a credit has in place of a window, which begins with a digit.
const creditMark = counterMark + "c"

// CreditLasts is how long a credit lasts, unless [Engine.Grant] is told otherwise, if its
// limit has no windows that end.
const CreditLasts = 24 * time.Hour

// appendCreditName appends what a credit has in place of a window.
func (l *limit) appendCreditName(b []byte, model string) []byte {
	h := mixString(mixString(xxhash.Sum64String(string(l.Dimension)), l.Name), model)
	return strconv.AppendUint(append(b, creditMark...), h, 16)
}

// countCredit counts the record of that name, if it is that of a credit.
func (p *partition) countCredit(name []byte, n int) {
	if i := bytes.IndexByte(name, 0); i >= 0 && bytes.HasPrefix(name[i+1:], []byte(creditMark)) {
		p.credits += uint32(n)
		p.records.first.credited = p.credits > 0
	}
}

// findCredit returns the record of the credit of a limit, which lasts, or nil. model is ""
// for a limit of all models.
func (p *partition) findCredit(scope, model string, l *limit, now Time) (uint32, *record) {
	var buf [len(creditMark) + 16]byte
	recordID, rec := p.find(scope, string(l.appendCreditName(buf[:0], model)))
	if rec == nil || now.Wall >= rec.buckets[0].hi || rec.buckets[0].lo == 0 {
		return 0, nil
	}
	return recordID, rec
}

// creditLeft returns what is left of the credit of a limit.
func (p *partition) creditLeft(scope, model string, l *limit, now Time) int64 {
	if _, rec := p.findCredit(scope, model, l, now); rec != nil {
		return int64(rec.buckets[0].lo) - 1
	}
	return 0
}

// takeCredit sets the part of the cost that the limit has no room for, and reports whether
// what is left of the credit covers it.
func (a *assessment) takeCredit() bool {
	room := max(0, a.limit.room(*a.bucket, a.ring)-a.headroom)
	a.credited = a.cost - min(a.cost, room)
	if a.credited > a.credit || a.limit.Algorithm == Concurrency || a.limit.Closed {
		a.credited = 0
		return false
	}
	return true
}

// room returns how many units may still be charged. It is negative in debt.
func (l *limit) room(b bucket, r *ring) int64 { return l.capacity - l.used(b, r) }

// spendCredit takes the credited part of a cost from the credit, and returns it.
func (p *partition) spendCredit(r *Request, a *assessment, now Time) int64 {
	scope, model, _ := a.name(r)
	recordID, rec := p.findCredit(scope, model, a.limit, now)
	if rec == nil { // it was evicted for another record of this request: less than 1 % was left
		return 0
	}
	p.changeCredit(rec, recordID, -min(a.credited, int64(rec.buckets[0].lo)-1), now)
	return a.credited
}

// returnCredit gives n units of the cost of a charge back to the credit that they came from,
// if it lasts.
func (p *partition) returnCredit(it *chargeIterator, n int64, now Time) {
	var buf [maxName]byte
	scope, model, _ := bytes.Cut(p.appendName(buf[:0], it.rec), []byte{0})
	if recordID, rec := p.findCredit(string(scope), string(model), it.limit, now); rec != nil {
		p.changeCredit(rec, recordID, min(n, int64(counterLimitOf(rec))-int64(rec.buckets[0].lo)+1), now)
	}
}

func (p *partition) changeCredit(rec *record, recordID uint32, n int64, now Time) {
	p.advance(rec, now)
	p.recordChanged(rec, recordID)
	rec.buckets[0].lo += uint64(n)
}

// Grant gives the limit of r.Key that is named limit, or counts the dimension of that name,
// a one-off credit: units beside the limit, from which calls take what the limit has no room
// for. What a settle, a cancel or the end of a lease takes off the cost of a call goes back
// to the credit first. A credit does not refill. It lasts for the time lasts or, if that is
// 0, until the end of the current window of a fixed window, and otherwise for
// [CreditLasts]. A further grant adds to what is left. If anything is, the later end counts.
//
// r has the key, tier, model and plan, and the id of the change, see [Adjustment]. Of the
// limits that r.Plan has at the level of r.Key itself, exactly one must have the name, not be
// a concurrency limit, and not be in shadow mode.
//
// The error is a [*FieldError], [ErrNoRoom] if there is no room for the credit or the id,
// [ErrClosed], or matches [ErrConflict] if the id was used for another change.
func (e *Engine) Grant(now Time, r *Request, limit string, units int64, lasts time.Duration, d *Adjustment) error {
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.grantCredit(now, root, r, limit, units, lasts, d)
}

func (p *partition) grantCredit(now Time, root uint64, r *Request, name string, units int64, lasts time.Duration, d *Adjustment) error {
	now, done, err := p.beginAdjustment(now, root, r, name, adjustmentDigest("grant", r, name, units, int64(lasts)), d)
	if err != nil || done {
		return err
	}
	if units < 1 || units > MaxAmount {
		return numberError("amount", units, "must be from 1 to "+amount.MaxText)
	}
	if lasts < 0 || lasts > maxWindow {
		return &FieldError{Field: "lasts", Value: lasts.String(), Problem: "must be from 1s to 400 days, or absent"}
	}
	if len(d.targets) > 1 {
		return &FieldError{Field: "limit", Value: strconv.Quote(name), Problem: fmt.Sprintf("must name one limit, and %d have this name", len(d.targets))}
	}
	a := &d.decision.assessments[d.targets[0]]
	l := a.limit
	switch {
	case l.Algorithm == Concurrency:
		return &FieldError{Field: "limit", Value: strconv.Quote(name), Problem: "has no credit, because it counts calls that run: raise the limit, or end a reservation"}
	case l.Shadow:
		return &FieldError{Field: "limit", Value: strconv.Quote(name), Problem: "needs no credit: it is in shadow mode and denies nothing"}
	}
	scope, model, _ := a.name(r)
	before := p.creditLeft(scope, model, l, now)
	granted := int64(0)
	recordID, rec := p.findCredit(scope, model, l, now)
	if rec != nil {
		granted = int64(counterLimitOf(rec))
	}
	if units > MaxAmount-granted {
		return numberError("amount", units, fmt.Sprintf("with the %s that were granted must be at most %s", amount.Group(granted), amount.MaxText))
	}
	end := satAdd(int64(CreditLasts), now.Wall)
	switch {
	case lasts > 0:
		end = satAdd(int64(lasts), now.Wall)
	case l.Algorithm == FixedWindow:
		end = a.bucket.hi
	}
	d.add(r, a, before, before+units)
	if !p.rememberAdjustment(now, root, r, d) {
		return ErrNoRoom
	}
	if rec == nil {
		var buf [len(creditMark) + 16]byte
		window := string(l.appendCreditName(buf[:0], model))
		if recordID, rec = p.find(scope, window); rec == nil { // else it has ended
			if recordID, rec, _ = p.create(keypath.Root(r.Key), scope, window, p.engine.catalog.counter, now); rec == nil {
				p.stats.tableFull++
				p.forgetAdjustment(root, r.ID)
				return ErrNoRoom
			}
		}
		rec.buckets[0], rec.buckets[1].lo = bucket{hi: end, lo: 1}, 0
	}
	p.advance(rec, now)
	p.recordChanged(rec, recordID)
	b := &rec.buckets[0]
	if before > 0 {
		end = max(b.hi, end)
	}
	b.hi, b.lo = end, b.lo+uint64(units)
	rec.buckets[1].lo = uint64(granted + units)
	d.Limits[0].Until = b.hi
	p.seq++
	d.Change, d.Large = p.seq, true
	return nil
}
