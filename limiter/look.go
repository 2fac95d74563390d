// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// KeyState is what [Engine.Look] reports of a key.
type KeyState struct {
	// Limits are those of all levels of the key, as of [Engine.Peek].
	Limits []LimitState
	// Lent is what each of the limits is charged for slices, and CreditEnds when its credit
	// ends, in Unix nanoseconds, 0 if it has none.
	Lent, CreditEnds []int64
	// Reservations are running ones of the key and of keys below it, at most as many as were
	// asked for: those whose lease was renewed longest ago. Running counts all.
	Reservations []Running
	Running      int
	// Slices counts slices that are lent of the key and of keys below it. IDs counts the
	// request ids that are remembered under its root.
	Slices, IDs int
	Tier        string
	Version     uint64
}

// Running is a reservation that runs.
type Running struct {
	// Ref is its reference, see [ReservationRef].
	Ref string
	// Key is its key or, if that has no limits of its own, the longest part that has.
	Key string
	// Since is the time since it was made or its progress was reported, whichever is later:
	// then its lease began, which ends after Left.
	Since, Left time.Duration
	Charges     []RunningCharge
	// Output is the last progress of it, in output tokens.
	Output int64
	Tier   string
}

// RunningCharge is what a reservation is charged of one limit.
type RunningCharge struct {
	Name      string
	Dimension Dimension
	Scope     string
	Charged   int64
}

// lookStep is how many ids are visited under one hold of a lock.
const lookStep = 256

// Look reports the state of r.Key, as interactive calls see it, and at most that many of its reservations. It changes
// nothing. It visits all ids of the partition, 256 under one hold of its lock, so that the
// reservations and the slices are not those of one instant. The error is [ErrClosed].
func (e *Engine) Look(now Time, r *Request, most int, k *KeyState) error {
	s, root := e.lock(r.Key)
	if s.records.closed {
		s.Unlock()
		return ErrClosed
	}
	var d Decision
	all := *r
	all.Priority = Interactive
	s.peek(now, &all, &d)
	*k = KeyState{Limits: d.Limits, Tier: d.Tier, Version: d.PolicyVersion, Lent: make([]int64, len(d.Limits)), CreditEnds: make([]int64, len(d.Limits))}
	now.Mono = s.mono
	s.creditEnds(now, r, k)
	if account := s.accounts.find(root); account != 0 {
		k.IDs = int(s.accounts.at(account).n)
	}
	next, more := uint32(0), true
	for more {
		next, more = s.lookAt(root, next, r.Key, most, now, k)
		s.Unlock()
		if more {
			s.Lock()
		}
	}
	slices.SortFunc(k.Reservations, oldestFirst)
	return nil
}

func oldestFirst(a, b Running) int {
	return cmp.Or(cmp.Compare(b.Since, a.Since), strings.Compare(a.Ref, b.Ref))
}

// creditEnds sets k.CreditEnds.
func (p *partition) creditEnds(now Time, r *Request, k *KeyState) {
	i := 0
	for l := range r.Plan.Count {
		level := &r.Plan.Levels[l]
		for _, set := range [...]struct {
			of    *LimitSet
			model string
		}{{level.Limits, ""}, {level.Model, r.stateModel()}} {
			if set.of == nil {
				continue
			}
			for _, limit := range set.of.schema.limits {
				if _, rec := p.findCredit(r.Key[:level.End], set.model, limit, now); rec != nil {
					k.CreditEnds[i] = rec.buckets[0].hi
				}
				k.Limits[i].PerModel = set.model != ""
				i++
			}
		}
	}
}

// lookAt adds the reservations and slices of a key among the next ids after an entry.
func (p *partition) lookAt(root uint64, after uint32, key string, most int, now Time, k *KeyState) (last uint32, more bool) {
	keyHash := xxhash.Sum64String(key)
	for range lookStep {
		if after = p.entries.next(after); after == 0 {
			return 0, false
		}
		entry := p.entries.at(after)
		if entry.state() != idHeld || p.accounts.at(entry.account()).root != root || !p.concerns(entry, key, keyHash) {
			continue
		}
		if p.isSlice(entry) {
			k.Slices++
			p.addLent(entry, k)
			continue
		}
		k.Running++
		if most <= 0 {
			continue
		}
		if len(k.Reservations) < most {
			k.Reservations = append(k.Reservations, p.running(entry, key, keyHash, now))
			continue
		}
		youngest := 0
		for i := range k.Reservations {
			if oldestFirst(k.Reservations[youngest], k.Reservations[i]) < 0 {
				youngest = i
			}
		}
		if p.leaseBegan(entry, now) >= k.Reservations[youngest].Since {
			if running := p.running(entry, key, keyHash, now); oldestFirst(running, k.Reservations[youngest]) < 0 {
				k.Reservations[youngest] = running
			}
		}
	}
	return after, true
}

// concerns reports whether a reservation is of a key, or of one below it. The engine knows
// the latter by the scopes that it charges.
func (p *partition) concerns(entry *idEntry, key string, keyHash uint64) bool {
	if p.reservations.at(entry.reservation()).keyHash == keyHash {
		return true
	}
	var it chargeIterator
	for it.start(p, entry, ""); it.next(); {
		if it.rec != nil && it.pins && p.isOfScope(it.rec, key) {
			return true
		}
	}
	return false
}

// scopeOf returns the scope of a record.
func (p *partition) scopeOf(rec *record) string {
	var buf [maxName]byte
	scope, _, _ := strings.Cut(string(p.appendName(buf[:0], rec)), "\x00")
	return scope
}

// addLent adds what a slice is charged to k.Lent.
func (p *partition) addLent(entry *idEntry, k *KeyState) {
	var it chargeIterator
	for it.start(p, entry, ""); it.next(); {
		if it.rec == nil || !it.pins {
			continue
		}
		scope := p.scopeOf(it.rec)
		for i := range k.Limits {
			if l := &k.Limits[i]; l.Scope == scope && l.Name == it.limit.Name && l.Dimension == it.limit.Dimension {
				k.Lent[i] = satAdd(k.Lent[i], it.charge.charged)
			}
		}
	}
}

// leaseBegan returns how long ago the lease of a reservation was begun or renewed.
func (p *partition) leaseBegan(entry *idEntry, now Time) time.Duration {
	return time.Duration(max(0, p.reservations.at(entry.reservation()).ttl-(entry.due-now.Mono)))
}

// running describes a reservation.
func (p *partition) running(entry *idEntry, key string, keyHash uint64, now Time) Running {
	res := p.reservations.at(entry.reservation())
	left := entry.due - now.Mono
	w := Running{
		Ref: refOf(entry.key()), Since: p.leaseBegan(entry, now), Left: time.Duration(max(0, left)), Output: res.progress.output,
		Tier: p.terms.at(entry.terms()).tier,
	}
	if res.keyHash == keyHash {
		w.Key = key
	}
	var it chargeIterator
	for it.start(p, entry, ""); it.next(); {
		if it.rec == nil || !it.pins {
			continue
		}
		scope := p.scopeOf(it.rec)
		w.Charges = append(w.Charges, RunningCharge{it.limit.Name, it.limit.Dimension, scope, it.charge.charged})
		if res.keyHash != keyHash && len(scope) > len(w.Key) {
			w.Key = scope
		}
	}
	return w
}
