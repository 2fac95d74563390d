// SPDX-License-Identifier: Apache-2.0

package limiter

import "slices"

// The attempts that got the answer of an entry are listed by tags, so that the charge is
// given back when all of them are withdrawn. A withdrawal of an attempt with the tag of another
// one withdraws the other. Tags of reservations have 32 bits. Those of a check are in the bits
// of its costs that no cost has: the more attempts got its answer, the smaller are their tags.
// Two attempts of a check whose ids differ modulo 63 never have the same tag. One with the tag of
// another is taken for it, unless their tags differed while there was room for larger ones.

// checkAttempts are the tags of the attempts of a check: attemptBits for tags, and above them
// the layout.
type checkAttempts uint32

const (
	attemptBits = 18
	attemptTags = 63 * 8 * 520  // of attemptBits
	spareBits   = 64 - costBits // of each of the two costs
)

// layouts are how the tags of a check share attemptBits: room for so many, of so many bits, and
// how many different ones there are. No tag is 0. Each number of tags is a divisor of the next, so
// that the tag of an attempt in one layout says which it has in those before.
var layouts = [...]struct{ room, bits, tags uint32 }{{3, 6, 63}, {2, 9, 63 * 8}, {1, attemptBits, attemptTags}}

// widest is the layout for one attempt.
const widest = checkAttempts(len(layouts)-1) << attemptBits

func (c checkAttempts) layout() uint32 { return uint32(c >> attemptBits) }

// none reports whether no attempt is listed.
func (c checkAttempts) none() bool { return c&(1<<attemptBits-1) == 0 }

// at returns the tag in a place, 0 if there is none.
func (c checkAttempts) at(place uint32) uint32 {
	bits := layouts[c.layout()].bits
	return uint32(c) >> (place * bits) & (1<<bits - 1)
}

// find returns the first place with a tag, or without one if tag is 0; -1 if there is none.
func (c checkAttempts) find(tag uint32) int {
	for place := range layouts[c.layout()].room {
		if c.at(place) == tag {
			return int(place)
		}
	}
	return -1
}

// tag returns the tag of an attempt in the layout of c.
func (c checkAttempts) tag(attempt uint32) uint32 { return attempt%layouts[c.layout()].tags + 1 }

// with returns c with another attempt. ok is false if there is no room for it.
func (c checkAttempts) with(attempt uint32) (_ checkAttempts, ok bool) {
	if c == 0 {
		c = widest
	}
	if c.find(c.tag(attempt)) >= 0 {
		return c, true
	}
	for {
		if free := c.find(0); free >= 0 {
			return c.put(free, attempt), true
		}
		if c.layout() == 0 {
			return c, false
		}
		c = c.smaller()
	}
}

// without returns c without an attempt; found is false if it is not listed.
func (c checkAttempts) without(attempt uint32) (_ checkAttempts, found bool) {
	place := c.find(c.tag(attempt))
	if place < 0 {
		return c, false
	}
	l := layouts[c.layout()]
	return c &^ ((1<<l.bits - 1) << (uint32(place) * l.bits)), true
}

// put puts an attempt in a place without one.
func (c checkAttempts) put(place int, attempt uint32) checkAttempts {
	return c | checkAttempts(c.tag(attempt)<<(uint32(place)*layouts[c.layout()].bits))
}

// smaller returns c in the layout with room for one more.
func (c checkAttempts) smaller() checkAttempts {
	next := checkAttempts(c.layout()-1) << attemptBits
	for place := range layouts[c.layout()].room {
		if tag := c.at(place); tag != 0 {
			next = next.put(int(place), tag-1)
		}
	}
	return next
}

// checkAttempt returns what tags of an attempt of a check are made from. It depends on the
// policy version: a check can only be withdrawn under the policy that decided it, because its
// charges are computed again.
func checkAttempt(attempt, version uint64) uint32 {
	return uint32((attempt%attemptTags + mix(0, version)%attemptTags) % attemptTags)
}

// reservedAttempt returns the tag of an attempt of a reservation, not 0.
func reservedAttempt(attempt uint64) uint32 { return max(uint32(mix(attempt, 0)), 1) }

// attempts returns the attempts of a check.
func (entry *idEntry) attempts() checkAttempts {
	return checkAttempts(uint64(entry.value[0])>>costBits | uint64(entry.value[1])>>costBits<<spareBits)
}

func (entry *idEntry) setAttempts(c checkAttempts) {
	entry.value[0] = entry.tokens() | int64(uint64(c)<<costBits)
	entry.value[1] = entry.spend() | int64(uint64(c)>>spareBits<<costBits)
}

// addAttempt notes that an attempt got the answer of an entry. While all attempts that
// got it may be withdrawn, no caller is known to use the answer.
func (p *partition) addAttempt(entry *idEntry, attempt, version uint64) (changed bool) {
	if attempt != 0 && entry.isReservation() {
		tags, tag := &p.reservations.at(entry.reservation()).attempts, reservedAttempt(attempt)
		if slices.Contains(tags[:], tag) {
			return false
		}
		if free := slices.Index(tags[:], 0); free >= 0 {
			tags[free] = tag
			return true
		}
	} else if attempt != 0 {
		before := entry.attempts()
		if c, ok := before.with(checkAttempt(attempt, version)); ok {
			entry.setAttempts(c)
			return c != before
		}
	}
	changed = !entry.is(flagPermanent)
	entry.set(flagPermanent) // it has no id, or there is no room for it
	return changed
}

// removeAttempt removes an attempt and reports whether it was the last one.
func (p *partition) removeAttempt(entry *idEntry, attempt, version uint64) (last bool) {
	if entry.isReservation() {
		tags := &p.reservations.at(entry.reservation()).attempts
		i := slices.Index(tags[:], reservedAttempt(attempt))
		if i < 0 {
			return false
		}
		tags[i] = 0
		return !entry.is(flagPermanent) && *tags == [len(tags)]uint32{}
	}
	c, found := entry.attempts().without(checkAttempt(attempt, version))
	if !found {
		return false
	}
	entry.setAttempts(c)
	return !entry.is(flagPermanent) && c.none()
}
