// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"slices"
	"time"
)

const (
	maxTargets = 3           // asked in one round
	aliasPause = time.Minute // between two attempts at an address that answers and is no member's
)

// contacts remembers how attempts to reach missing members went, to be fair to
// all of them.
type contacts struct{ tried map[netip.AddrPort]attempt }

type attempt struct {
	at       time.Time
	answered bool
}

func (c *contacts) record(addr netip.AddrPort, answered bool, now time.Time) {
	c.tried[addr] = attempt{now, answered}
}

// choose returns at most maxTargets addresses that are worth an attempt: a seed
// if one is missing, then members that are missing, then more seeds; among them
// whoever was not tried for longest, and else in the order given. A seed that
// answered and never was a member's address is that of a load balancer, say, and
// rests for a while. A member that answered does not: it may take two exchanges
// until both sides believe that it is alive.
func (c *contacts) choose(seeds, absent []netip.AddrPort, live map[netip.AddrPort]bool, now time.Time) []netip.AddrPort {
	for addr := range c.tried {
		if live[addr] || !slices.Contains(seeds, addr) && !slices.Contains(absent, addr) {
			delete(c.tried, addr)
		}
	}
	missing := func(addrs []netip.AddrPort) []netip.AddrPort {
		var out []netip.AddrPort
		for _, addr := range addrs {
			a := c.tried[addr]
			rests := a.answered && now.Sub(a.at) < aliasPause && !slices.Contains(absent, addr)
			if !live[addr] && !rests {
				out = append(out, addr)
			}
		}
		slices.SortStableFunc(out, func(a, b netip.AddrPort) int { return c.tried[a].at.Compare(c.tried[b].at) })
		return out
	}
	seeds, members := missing(seeds), missing(absent)
	first := min(1, len(seeds))
	var targets []netip.AddrPort
	for _, addr := range slices.Concat(seeds[:first], members, seeds[first:]) {
		if len(targets) < maxTargets && !slices.Contains(targets, addr) {
			targets = append(targets, addr)
		}
	}
	return targets
}

// contact is how the last round went, for [Status].
type contact struct {
	last    time.Time // a seed or a missing member answered; zero: never
	problem string    // why the last round reached nobody, "" if it did or needed not
}
