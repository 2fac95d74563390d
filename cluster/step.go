// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The step function makes all decisions about membership. It uses no clock, lock
// or socket, and its results do not depend on the order of maps, so [Cluster.Run]
// and simulations run the same code.

const (
	// maxDeparted bounds how many departed boots are remembered.
	maxDeparted = 1024
	// staleBootTime is how long after a boot departed an older boot at the same
	// address is taken for dead, too. It is longer than the detection of a crash.
	staleBootTime = 10 * time.Second
)

// event is news of one boot from gossip, or a tick of the clock.
type event struct {
	kind   eventKind
	member Member // its latest metadata
}

type eventKind uint8

const (
	eventTick eventKind = iota // time has passed
	eventUp                    // the boot is alive
	eventDown                  // the boot is not alive any more
)

// effects are for the caller to carry out.
type effects struct {
	publish  *View     // nil: no change
	nextStep time.Time // when to step again at the latest; zero: no need
}

// timing says when views are published and how long departed boots are kept.
type timing struct {
	debounce         time.Duration // from the last event to the view
	maxDelay         time.Duration // from the first event to the view
	departedTTL      time.Duration // in View.Departed
	reconnectTimeout time.Duration // in View.missing
}

// membership is the state of the step function.
type membership struct {
	timing   timing
	boots    map[string]bootStatus // by gossip name; dead ones are kept for staleBootTime
	departed []Departure           // oldest first; at most maxDeparted, none older than reconnectTimeout

	// Times of the first and the last event that is in no view yet. Valid unless
	// firstPending is zero.
	firstPending, lastPending time.Time
	view                      *View // the latest, never nil
}

type bootStatus struct {
	Member
	alive   bool
	updated time.Time // of the last event
}

func newMembership(name string, boot Boot, t timing) membership {
	return membership{timing: t, boots: map[string]bootStatus{}, view: &View{self: name, boot: boot}}
}

// step returns the state after an event. It modifies s, which must not be used
// again. The time now must not decrease between calls.
func step(s membership, e event, now time.Time) (membership, effects) {
	if e.kind != eventTick {
		s.boots[e.member.gossipName()] = bootStatus{e.member, e.kind == eventUp, now}
		if s.firstPending.IsZero() {
			s.firstPending = now
		}
		s.lastPending = now
	}
	var fx effects
	if due := s.nextBuild(); !due.IsZero() && !now.Before(due) {
		next := s.build(now)
		s.firstPending = time.Time{}
		if !next.sameAs(s.view) {
			next.Number = s.view.Number + 1
			s.view, fx.publish = next, next
		}
	}
	fx.nextStep = s.nextBuild()
	return s, fx
}

// nextBuild returns when the next view has to be built, or zero for never.
func (s *membership) nextBuild() time.Time {
	var next time.Time
	atMost := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	if !s.firstPending.IsZero() {
		atMost(s.lastPending.Add(s.timing.debounce))
		atMost(s.firstPending.Add(s.timing.maxDelay))
	}
	for _, b := range s.boots {
		if !b.alive {
			atMost(b.updated.Add(staleBootTime))
		}
	}
	if len(s.view.Departed) > 0 {
		atMost(s.view.Departed[0].At.Add(s.timing.departedTTL))
	}
	if len(s.departed) > 0 {
		atMost(s.departed[0].At.Add(s.timing.reconnectTimeout))
	}
	return next
}

// build returns the view of all events so far, and deletes what has expired.
func (s *membership) build(now time.Time) *View {
	maps.DeleteFunc(s.boots, func(gossipName string, b bootStatus) bool {
		m, ok := s.view.Member(b.Name)
		return !b.alive && now.Sub(b.updated) >= staleBootTime && (!ok || m.gossipName() != gossipName)
	})
	current := s.currentBoots()
	for _, m := range s.view.Members {
		if current[m.Name].Boot.ID == m.Boot.ID {
			continue
		}
		d := Departure{Member: s.boots[m.gossipName()].Member, Fate: Crashed, At: now}
		if d.State == Leaving {
			d.Fate = Left
		}
		s.departed = append(s.departed, d)
	}
	s.departed = slices.DeleteFunc(s.departed, func(d Departure) bool {
		return current[d.Name].Boot.ID == d.Boot.ID || now.Sub(d.At) >= s.timing.reconnectTimeout
	})
	s.departed = slices.Delete(s.departed, 0, max(0, len(s.departed)-maxDeparted))

	v := &View{self: s.view.self, boot: s.view.boot}
	v.fenced = s.view.fenced || current[v.self].Boot.Compare(v.boot) > 0
	for _, m := range current {
		v.Members = append(v.Members, m)
	}
	slices.SortFunc(v.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	for _, b := range s.boots {
		if m, ok := current[b.Name]; b.alive && ok && b.Boot.Compare(m.Boot) < 0 && m.Gossip != b.Gossip {
			v.Fenced = append(v.Fenced, b.Member)
		}
	}
	slices.SortFunc(v.Fenced, func(a, b Member) int { return strings.Compare(a.gossipName(), b.gossipName()) })
	for _, d := range s.departed {
		if now.Sub(d.At) < s.timing.departedTTL {
			v.Departed = append(v.Departed, d)
		}
	}
	v.missing = missing(s.departed, current)
	return v
}

// currentBoots returns the newest live boot of each name. It ignores a boot at
// the same address as a newer one, even if the newer one has departed since: the
// older one is dead and its death was not detected yet.
func (s *membership) currentBoots() map[string]Member {
	type place struct {
		name   string
		gossip netip.AddrPort
	}
	newest := make(map[place]Boot, len(s.boots))
	for _, b := range s.boots {
		if at := (place{b.Name, b.Gossip}); newest[at].Compare(b.Boot) < 0 {
			newest[at] = b.Boot
		}
	}
	current := make(map[string]Member, len(s.boots))
	for _, b := range s.boots {
		if !b.alive || newest[place{b.Name, b.Gossip}] != b.Boot {
			continue
		}
		if m, ok := current[b.Name]; !ok || m.Boot.Compare(b.Boot) < 0 {
			current[b.Name] = b.Member
		}
	}
	return current
}

// missing returns the addresses of names without a live boot whose latest boot
// crashed, the latest crash first.
func missing(departed []Departure, current map[string]Member) []netip.AddrPort {
	var addrs []netip.AddrPort
	seen := map[string]bool{}
	for _, d := range slices.Backward(departed) {
		if _, ok := current[d.Name]; !ok && !seen[d.Name] && d.Fate == Crashed {
			addrs = append(addrs, d.Gossip)
		}
		seen[d.Name] = true
	}
	return addrs
}
