// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// lentRates are the slices of a key that are outstanding, and how often its calls are decided
// from slices. A call counts when its slice has been returned, and that is soon after its
// lease at the latest.
type lentRates struct {
	rate    int64 // calls per second
	slices  int
	decided map[uint32]int64 // calls per second, by who decides them: numbers of askers
	holders []holderRate     // those with the highest rates first
}

// holderRate is one who holds slices of a key.
type holderRate struct {
	askerName
	slices int
	rate   int64 // calls per second that it decides
}

// rates returns those of all keys of which slices are outstanding or were returned lately.
func (l *lender) rates() map[string]*lentRates {
	found := map[string]*lentRates{}
	if l.keys.Load() == 0 {
		return found
	}
	now := l.now()
	for i := range l.partitions {
		p := &l.partitions[i]
		p.Lock()
		for key, k := range p.keys {
			l.pruneLocked(k, now)
			if r := k.lentRatesLocked(now); r.rate > 0 || r.slices > 0 {
				found[key] = r
			}
		}
		p.Unlock()
	}
	return found
}

func (k *lentKey) lentRatesLocked(now time.Duration) *lentRates {
	r := &lentRates{slices: len(k.slices), decided: make(map[uint32]int64, len(k.askers))}
	r.rate, _ = k.ratesLocked(now, -1)
	for i := range k.askers {
		if n := k.askers[i].rate(now); n > 0 {
			r.decided[k.askers[i].id] = n
		}
	}
	// One who has connected again has another number, and the same name.
	byName := map[askerName]holderRate{}
	counted := map[uint32]bool{}
	for _, s := range k.slices {
		h := byName[s.holder]
		h.askerName = s.holder
		h.slices++
		if !counted[s.asker] {
			counted[s.asker] = true
			h.rate += r.decided[s.asker]
		}
		byName[s.holder] = h
	}
	for _, h := range byName {
		r.holders = append(r.holders, h)
	}
	slices.SortFunc(r.holders, func(a, b holderRate) int {
		return cmp.Or(cmp.Compare(b.rate, a.rate), cmp.Compare(b.slices, a.slices), strings.Compare(a.text, b.text))
	})
	return r
}
