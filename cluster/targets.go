// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"slices"
	"time"
)

const (
	maxJoinTargets = 3           // addresses per round
	nonMemberPause = time.Minute // between attempts at an address that answers but is not a member's
)

// joinHistory remembers the last attempt at each address, so that every missing
// member gets its turn.
type joinHistory struct{ attempts map[netip.AddrPort]attempt }

type attempt struct {
	at       time.Time
	answered bool
}

func (h *joinHistory) record(addr netip.AddrPort, answered bool, now time.Time) {
	h.attempts[addr] = attempt{now, answered}
}

// selectTargets returns at most maxJoinTargets addresses to contact: first one
// missing seed, then missing members, then the other missing seeds. Within each
// group the address whose last attempt is oldest comes first; equal ones keep
// their order.
//
// A seed that answered but is not the address of a member, such as a load
// balancer, is skipped for nonMemberPause. A missing member that answered is not
// skipped, because it can take two exchanges until both sides see each other as
// alive.
func (h *joinHistory) selectTargets(seeds, members []netip.AddrPort, live map[netip.AddrPort]bool, now time.Time) []netip.AddrPort {
	for addr := range h.attempts {
		if live[addr] || !slices.Contains(seeds, addr) && !slices.Contains(members, addr) {
			delete(h.attempts, addr)
		}
	}
	due := func(addrs []netip.AddrPort) []netip.AddrPort {
		var out []netip.AddrPort
		for _, addr := range addrs {
			last := h.attempts[addr]
			paused := last.answered && now.Sub(last.at) < nonMemberPause && !slices.Contains(members, addr)
			if !live[addr] && !paused {
				out = append(out, addr)
			}
		}
		slices.SortStableFunc(out, func(a, b netip.AddrPort) int { return h.attempts[a].at.Compare(h.attempts[b].at) })
		return out
	}
	dueSeeds, dueMembers := due(seeds), due(members)
	first := min(1, len(dueSeeds))
	var targets []netip.AddrPort
	for _, addr := range slices.Concat(dueSeeds[:first], dueMembers, dueSeeds[first:]) {
		if len(targets) < maxJoinTargets && !slices.Contains(targets, addr) {
			targets = append(targets, addr)
		}
	}
	return targets
}

// contactStatus is the result of the latest rounds, for [Status].
type contactStatus struct {
	last    time.Time        // when a seed or a missing member last answered; zero: never
	problem string           // why no missing member answered in the last round; "" if one did or none is missing
	missing []netip.AddrPort // that were contacted in that round, without those that have left
}

// problemIn returns the problem, or "" if all that were missing are in v: then the next round
// finds none.
func (c *contactStatus) problemIn(v *View) string {
	live := v.live()
	if len(v.Members) < 2 || slices.ContainsFunc(c.missing, func(addr netip.AddrPort) bool { return !live[addr] }) {
		return c.problem
	}
	return ""
}
