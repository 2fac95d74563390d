// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// heard are the sendings of a reserve that got its answer. As long as all of
// them may yet be withdrawn, nobody is known to go by the reservation.
type heard struct {
	stays    bool // there is one that cannot be, or more than fit
	attempts [2]uint64
}

func (h *heard) add(attempt uint64) {
	if attempt == 0 {
		h.stays = true
		return
	}
	free := -1
	for i, a := range h.attempts {
		switch a {
		case attempt:
			return
		case 0:
			free = i
		}
	}
	if free < 0 {
		h.stays = true
		return
	}
	h.attempts[free] = attempt
}

// remove reports whether attempt was there, and nobody is left.
func (h *heard) remove(attempt uint64) (last bool) {
	for i, a := range h.attempts {
		if a == attempt {
			h.attempts[i] = 0
			return !h.stays && h.attempts == [len(h.attempts)]uint64{}
		}
	}
	return false
}

// attemptHash is where a sending that was withdrawn is remembered, beside the
// request ids.
func attemptHash(root, attempt uint64) [2]uint64 {
	return [2]uint64{mix(root, attempt), mix(^attempt, root)}
}

func (p *partition) withdrawn(root, attempt uint64) bool {
	if attempt == 0 {
		return false
	}
	_, x := p.findHold(attemptHash(root, attempt))
	return x != nil
}

// withdraw takes back a sending of a reserve, whether it has come or not.
func (p *partition) withdraw(now Time, root uint64, key, id string, attempt uint64) {
	now = p.tick(now)
	if attempt == 0 || p.withdrawn(root, attempt) {
		return
	}
	p.rememberWithdrawn(now, root, attempt)
	no, x := p.findHold(idHash(root, id))
	if x == nil || x.lease == 0 {
		return
	}
	ls := p.leases.at(x.lease)
	if ls.key != xxhash.Sum64String(key) || !ls.heard.remove(attempt) {
		return
	}
	p.bring(x, key, now)
	switch x.status {
	case Held:
		p.undo(x, now)
		p.heapRemove(no)
		p.release(x)
		p.deleteHold(no)
	case Expired:
		p.undo(x, now)
		p.release(x)
		p.vacate(no)
	}
}

// rememberWithdrawn keeps a sending from being decided if it comes yet. To withdraw
// costs nothing, so the last quarter of the ids is not for that: what comes then
// is held until its lease ends.
func (p *partition) rememberWithdrawn(now Time, root, attempt uint64) {
	if !p.engine.ids.ample() {
		return
	}
	if no, x := p.addHold(attemptHash(root, attempt)); x != nil {
		x.outcome, x.binding, x.tier = Allowed, -1, p.engine.catalog.tierID("")
		p.push(&p.checks, no, now.Mono+rememberCheck)
	}
}

// undo gives back all that a reservation charges.
func (p *partition) undo(x *hold, now Time) {
	for i := range int(x.count) {
		p.correct(x, i, now, 0)
	}
}
