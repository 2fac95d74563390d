// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"errors"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/keypath"
)

// ErrNoRoom means that there is no room for the request id of a change by an operator, or for
// the credit that it grants. Nothing was changed.
var ErrNoRoom = errors.New("there is no room for the change: the root has its share of the keys or request ids in memory")

// Adjustment is what a change by an operator did: [Engine.Reset], [Engine.Grant] or
// [Engine.End]. The id of the change is remembered for 10 minutes, with its result, in every
// copy of the partition: the same change with the same id again returns the same result and
// does nothing. The ids of these changes do not collide with those of calls. An Adjustment
// may be reused.
type Adjustment struct {
	// Limits are those that were changed.
	Limits []Adjusted
	// Status is what became of the reservation that End has ended, else NoStatus.
	Status Status
	// Replayed means that this is the result of an earlier change with the same id.
	Replayed bool
	// Change and Large are as in [Decision].
	Change uint64
	Large  bool

	decision Decision
	targets  []int  // indexes of the assessments of the limits to change
	body     uint32 // digest of the change
}

// Adjusted is one limit that was changed.
type Adjusted struct {
	Name      string
	Dimension Dimension
	Scope     string // key path of the level
	PerModel  bool
	// Before and After are what was used of the limit, in units; of a grant, what was left
	// of its credit.
	Before, After int64
	// Until is when a credit ends, in Unix nanoseconds; else 0. It is not remembered.
	Until int64
}

// add appends the limit of an assessment.
func (d *Adjustment) add(r *Request, a *assessment, before, after int64) {
	scope, _, _ := a.name(r)
	d.Limits = append(d.Limits, Adjusted{Name: a.limit.Name, Dimension: a.limit.Dimension, Scope: scope, PerModel: a.model, Before: before, After: after})
}

// adjustmentDigest identifies a change, to detect another one with the same id.
func adjustmentDigest(verb string, r *Request, name string, numbers ...int64) uint32 {
	h := mixString(adjustmentSeed, verb)
	for _, s := range [...]string{r.Key, r.Tier, r.Model, name} {
		h = mixString(h, s)
	}
	for _, n := range numbers {
		h = mix(h, uint64(n))
	}
	return uint32(h)
}

// adjustmentSeed is the seed of adjustmentDigest. Those of checks, reserves and counts are 0
// to 2.
const adjustmentSeed = 3

// adjustmentID begins the ids of changes. No caller can choose an id with it, because it is
// not printable.
const adjustmentID = "\x01adjust\x00"

// resetID returns the id by which it is remembered when a limit was reset.
func (a *Adjusted) resetID(r *Request) string {
	id := "\x01reset\x00" + a.bucketName()
	if a.PerModel {
		id += "\x00" + r.stateModel()
	}
	return id
}

// entryID returns the id of the part of an adjustment that is about one limit.
func (a *Adjusted) entryID(id string) string {
	return adjustmentID + id + "\x00" + a.bucketName()
}

func (a *Adjusted) bucketName() string {
	return a.Scope + "\x00" + string(a.Dimension) + "\x00" + a.Name + "\x00" + strconv.FormatBool(a.PerModel)
}

// beginAdjustment begins a change of the limits that have a name, or of all if it is "". It
// assembles the limits of r. done means that d has the result of an earlier change.
func (p *partition) beginAdjustment(now Time, root uint64, r *Request, name string, body uint32, d *Adjustment) (_ Time, done bool, err error) {
	d.Limits, d.targets, d.Status, d.Replayed, d.body = d.Limits[:0], d.targets[:0], NoStatus, false, body
	d.Change, d.Large = 0, false
	if p.records.closed {
		return now, false, ErrClosed
	}
	if r.ID == "" {
		return now, false, &FieldError{Field: "request_id", Value: `""`, Problem: "must not be empty"}
	}
	now = p.tick(now)
	if r.Plan != nil {
		if err := p.findTargets(now, r, name, d); err != nil {
			return now, false, err
		}
	}
	_, entry := p.findEntry(p.accounts.find(root), idKeyOf(root, adjustmentID+r.ID))
	switch {
	case entry == nil:
		return now, false, nil
	case entry.state() != idCount || entry.body != body:
		return now, false, &ConflictError{"the id was used for another change"}
	}
	d.Status, d.Replayed, d.Change, d.Large = Status(entry.value[0]), true, p.seq, true
	for _, i := range d.targets {
		d.add(r, &d.decision.assessments[i], 0, 0)
		l := &d.Limits[len(d.Limits)-1]
		if _, of := p.findEntry(p.accounts.find(root), idKeyOf(root, l.entryID(r.ID))); of != nil {
			l.Before, l.After = of.value[0], of.value[1]
		} else {
			d.Limits = d.Limits[:len(d.Limits)-1] // it was not changed
		}
	}
	return now, true, nil
}

// findTargets assembles the limits of r, and lists those of its key that have a name.
func (p *partition) findTargets(now Time, r *Request, name string, d *Adjustment) error {
	level, scopes := -1, []string{}
	for i := range r.Plan.Count {
		switch of := &r.Plan.Levels[i]; {
		case of.Limits.size()+of.Model.size() == 0:
		case of.End == len(r.Key):
			level = i
		default:
			scopes = append(scopes, r.Key[:of.End])
		}
	}
	if level < 0 {
		hint := "no limit applies to it"
		if len(scopes) > 0 {
			hint = "those that apply to it are of " + strings.Join(scopes, " and ")
		}
		return &FieldError{Field: "key", Value: strconv.Quote(r.Key), Problem: "must have limits of its own; " + hint}
	}
	p.assemble(&d.decision, r, now)
	var names []string
	byDimension := false
	for pass := range 2 {
		for i := range d.decision.assessments {
			a := &d.decision.assessments[i]
			if int(a.level) != level {
				continue
			}
			if pass == 0 {
				names = append(names, a.limit.Name)
			}
			if name == "" && pass == 0 || name != "" && (!byDimension && a.limit.Name == name || byDimension && string(a.limit.Dimension) == name) {
				d.targets = append(d.targets, i)
			}
		}
		if byDimension = true; len(d.targets) > 0 || name == "" {
			return nil
		}
	}
	return &UnknownLimitError{Limit: name, Key: r.Key, Known: names}
}

// UnknownLimitError says that a key has no limit of a name.
type UnknownLimitError struct {
	Limit, Key string
	Known      []string
}

// Error implements error.
func (e *UnknownLimitError) Error() string {
	return "limit: " + strconv.Quote(e.Key) + " has no limit " + strconv.Quote(e.Limit) + "; its limits are " + strings.Join(e.Known, ", ")
}

// rememberAdjustment remembers a change that is about to be made, with its result. It returns
// false if there is no room.
func (p *partition) rememberAdjustment(now Time, root uint64, r *Request, d *Adjustment) bool {
	for i := range d.Limits {
		l := &d.Limits[i]
		if !p.remember(now, root, l.entryID(r.ID), d.body, [2]int64{l.Before, l.After}) {
			return false
		}
	}
	return p.remember(now, root, adjustmentID+r.ID, d.body, [2]int64{int64(d.Status), 0})
}

// forgetAdjustment forgets a change that was not made after all.
func (p *partition) forgetAdjustment(root uint64, id string) {
	if entryID, entry := p.findEntry(p.accounts.find(root), idKeyOf(root, adjustmentID+id)); entry != nil {
		p.buryEntry(entryID)
	}
}

// remember remembers values by an id for endedRetention. It replaces what the id has.
func (p *partition) remember(now Time, root uint64, id string, body uint32, value [2]int64) bool {
	k := idKeyOf(root, id)
	if entryID, entry := p.findEntry(p.accounts.find(root), k); entry != nil {
		p.buryEntry(entryID)
	}
	entryID, entry := p.addEntry(root, k, idCount)
	if entry == nil {
		return false
	}
	p.seq++
	entry.body, entry.value = body, value
	p.pushEnded(entryID, now)
	return true
}

// Reset makes the usage of limits of r.Key 0: of the one named limit, of those that count the
// dimension of that name or, if limit is "", of all but concurrency limits, which count calls
// that run. It changes neither the limits of other levels nor credits, and of limits per model
// only those of the model of r.
//
// Reservations stay valid. A limit forgets what it was charged for them, so that a settle, a
// cancel or the end of a lease changes it no more: as if the real usage had been charged at
// reserve time and then reset. Slices that are lent stay charged, since their holders may
// still spend them. So After is what is lent, and 0 if no slices are.
//
// r has the key, tier, model and plan, and the id of the change, see [Adjustment]. The error
// is a [*FieldError], a [*UnknownLimitError], [ErrNoRoom], [ErrClosed], or matches
// [ErrConflict] if the id was used for another change.
func (e *Engine) Reset(now Time, r *Request, limit string, d *Adjustment) error {
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.reset(now, root, r, limit, d)
}

func (p *partition) reset(now Time, root uint64, r *Request, name string, d *Adjustment) error {
	now, done, err := p.beginAdjustment(now, root, r, name, adjustmentDigest("reset", r, name), d)
	if err != nil || done {
		return err
	}
	for _, i := range d.targets {
		a := &d.decision.assessments[i]
		if a.limit.Algorithm == Concurrency {
			if name != "" {
				return &FieldError{Field: "limit", Value: strconv.Quote(name), Problem: "cannot be reset, because it counts calls that run: end reservations instead"}
			}
			continue
		}
		d.add(r, a, a.limit.used(*a.bucket, a.ring), p.lentOfLimit(a))
	}
	for i := range d.Limits {
		if !p.remember(now, root, d.Limits[i].resetID(r), d.body, [2]int64{0, now.Wall}) {
			return ErrNoRoom
		}
	}
	if !p.rememberAdjustment(now, root, r, d) {
		return ErrNoRoom
	}
	for _, i := range d.targets {
		if a := &d.decision.assessments[i]; a.rec != nil && a.limit.Algorithm != Concurrency {
			p.resetLimit(a, now)
		}
	}
	p.seq++
	d.Change, d.Large = p.seq, true
	return nil
}

// lentOfLimit returns what a limit was charged for slices.
func (p *partition) lentOfLimit(a *assessment) (n int64) {
	if a.rec == nil || p.slices == 0 {
		return 0
	}
	p.eachPending(a.rec, a.limit.bucketID, func(entry *idEntry, c *charge) {
		if p.isSlice(entry) {
			n = satAdd(n, c.charged)
		}
	})
	return n
}

// resetLimit makes the usage of a limit what is lent of it.
func (p *partition) resetLimit(a *assessment, now Time) {
	l, b, rec, pos := a.limit, a.bucket, a.rec, int(a.pos)
	p.recordChanged(rec, a.recordID)
	rec.flags &^= recordDenied
	var lent []*charge // the memory of charges does not move
	p.eachPending(rec, l.bucketID, func(entry *idEntry, c *charge) {
		if l.Algorithm == TokenBucket {
			p.closeMark(rec, pos, c.at)
		}
		if p.isSlice(entry) {
			lent = append(lent, c)
			return
		}
		c.reset()
		rec.pins--
	})
	switch l.Algorithm {
	case TokenBucket:
		*b = bucket{}
	case SlidingWindow:
		if b.lo != 0 {
			p.rings.free(uint32(b.lo))
			b.lo, a.ring = 0, nil
		}
	default:
		b.lo = 0
	}
	for _, c := range lent {
		c.at = p.chargedAt(a, now)
		if c.charged > 0 {
			a.ring = p.ensureRing(l, b, now)
			l.charge(b, a.ring, c.charged)
		}
	}
}

// wasReset reports whether a limit of a request was reset in the last age nanoseconds, so
// that what it was charged before that is gone.
func (p *partition) wasReset(root uint64, r *Request, a *assessment, age int64, now Time) bool {
	scope, _, _ := a.name(r)
	of := Adjusted{Name: a.limit.Name, Dimension: a.limit.Dimension, Scope: scope, PerModel: a.model}
	_, entry := p.findEntry(p.accounts.find(root), idKeyOf(root, of.resetID(r)))
	return entry != nil && entry.state() == idCount && endedRetention-(entry.due-now.Mono) <= age
}

// EndCharge is what a reservation that [Engine.End] ends is charged.
type EndCharge uint8

// What an ended reservation is charged: its progress, as at the end of its lease; what it is
// charged now; or nothing.
const (
	ChargeProgress EndCharge = iota
	ChargeEstimate
	ChargeNothing
)

// reservationRef begins a reference to a reservation, see [ReservationRef].
const reservationRef = "ref:"

// ReservationRef returns the reference to the reservation with a request id under the root of
// key: "ref:" and 24 hexadecimal digits. The engine does not keep ids, so it lists
// reservations by their references.
func ReservationRef(key, id string) string {
	return refOf(idKeyOf(keypath.RootHash(key), id))
}

func refOf(k idKey) string {
	b := append(make([]byte, 0, len(reservationRef)+24), reservationRef...)
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[k.hash>>shift&15])
	}
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[k.more>>shift&15])
	}
	return string(b)
}

// parseRef returns the key of a request id by its reference, or false if it is none.
func parseRef(ref string) (k idKey, ok bool) {
	digits, ok := strings.CutPrefix(ref, reservationRef)
	if !ok || len(digits) != 24 {
		return idKey{}, false
	}
	hash, err := strconv.ParseUint(digits[:16], 16, 64)
	more, err2 := strconv.ParseUint(digits[16:], 16, 32)
	return idKey{hash, uint32(more)}, err == nil && err2 == nil
}

// End ends a reservation of r.Key, whose request id or reference it is given, and frees its
// slots. With ChargeProgress it is charged as at the end of its lease: the input or the
// progress, whichever is more. With ChargeEstimate its charge stays as it is. In both cases
// it counts as expired, and a settle that comes later corrects the charge. With ChargeNothing
// it is cancelled, and a later settle is refused.
//
// r has the key and the id of the change, see [Adjustment]. The error is a [*FieldError],
// [ErrUnknownReservation], [ErrNoRoom], [ErrClosed], or matches [ErrConflict] if the
// reservation is of another key or has ended, or the id was used for another change.
func (e *Engine) End(now Time, r *Request, reservation string, charge EndCharge, d *Adjustment) error {
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.endReservation(now, root, r, reservation, charge, d)
}

func (p *partition) endReservation(now Time, root uint64, r *Request, id string, charge EndCharge, d *Adjustment) error {
	now, done, err := p.beginAdjustment(now, root, r, "", adjustmentDigest("end", r, id, int64(charge)), d)
	if err != nil || done {
		return err
	}
	k, isRef := parseRef(id)
	if !isRef {
		k = idKeyOf(root, id)
	}
	entryID, entry := p.findEntry(p.accounts.find(root), k)
	switch {
	case entry == nil:
		return ErrUnknownReservation
	case !entry.isReservation():
		return &ConflictError{"the id was used for a check"}
	case p.isSlice(entry):
		return errSliceID
	case p.reservations.at(entry.reservation()).keyHash != xxhash.Sum64String(r.Key):
		return &ConflictError{"the id was reserved under another key"}
	case entry.state() != idHeld:
		return &ConflictError{"the reservation has ended already: it is " + entry.status().String()}
	}
	if d.Status = Expired; charge == ChargeNothing {
		d.Status = Cancelled
	}
	if !p.rememberAdjustment(now, root, r, d) {
		return ErrNoRoom
	}
	switch charge {
	case ChargeNothing:
		p.entryChanged(entryID)
		p.refundAll(entry, r.Key, now)
		p.end(entryID, entry, idCancelled, now)
	default:
		p.expireCharging(entryID, charge == ChargeEstimate, now)
	}
	p.seq++
	d.Change, d.Large = p.seq, true
	return nil
}
