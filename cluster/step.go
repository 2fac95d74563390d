// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The step function is all there is to decide about membership. It has no
// clock, lock or socket, and no order of maps shows in what it returns, so it
// runs the same under [Cluster.Run] and in a simulation.

const (
	// maxDeparted bounds what is remembered of boots that are gone.
	maxDeparted = 1024
	// ghostTime is for how long after a boot went an older one at its address is
	// taken for dead, too: longer than it takes to miss that.
	ghostTime = 10 * time.Second
)

// event is what gossip says about one boot, or that time has passed.
type event struct {
	kind   eventKind
	member Member // as it describes itself now; of a lost one, as it last did
}

type eventKind uint8

const (
	passed   eventKind = iota // time, up to now
	observed                  // the boot is alive
	lost                      // the boot is not alive any more
)

// effects are for the caller to carry out.
type effects struct {
	publish *View     // nil: nothing is different
	wake    time.Time // step again then, if not sooner; zero: no need
}

// pace says when a view is published, and for how long boots that are gone are
// shown (forget) and asked to come back (remember).
type pace struct{ quiet, limit, forget, remember time.Duration }

// membership is the state of the step function.
type membership struct {
	pace  pace
	boots map[string]known // by name; those that are gone stay for ghostTime
	gone  []Departure      // oldest first, at most maxDeparted, none older than pace.remember

	first, last time.Time // events that are in no view yet: first.IsZero() if there are none
	view        *View     // the latest, never nil
}

type known struct {
	Member
	live bool
	at   time.Time // of the last event
}

func newMembership(slot string, boot Boot, p pace) membership {
	return membership{pace: p, boots: map[string]known{}, view: &View{self: slot, boot: boot}}
}

// step takes the state over: only the one that it returns may be used again. Now
// must not go backwards.
func step(s membership, e event, now time.Time) (membership, effects) {
	if e.kind != passed {
		s.boots[e.member.name()] = known{e.member, e.kind == observed, now}
		if s.first.IsZero() {
			s.first = now
		}
		s.last = now
	}
	var fx effects
	if due := s.due(); !due.IsZero() && !now.Before(due) {
		next := s.build(now)
		s.first = time.Time{}
		if !next.sameAs(s.view) {
			next.Number = s.view.Number + 1
			s.view, fx.publish = next, next
		}
	}
	fx.wake = s.due()
	return s, fx
}

// due is when the next view has to be built, zero for never.
func (s *membership) due() time.Time {
	var due time.Time
	sooner := func(t time.Time) {
		if due.IsZero() || t.Before(due) {
			due = t
		}
	}
	if !s.first.IsZero() {
		sooner(s.last.Add(s.pace.quiet))
		sooner(s.first.Add(s.pace.limit))
	}
	for _, k := range s.boots {
		if !k.live {
			sooner(k.at.Add(ghostTime))
		}
	}
	if len(s.view.Departed) > 0 {
		sooner(s.view.Departed[0].At.Add(s.pace.forget))
	}
	if len(s.gone) > 0 {
		sooner(s.gone[0].At.Add(s.pace.remember))
	}
	return due
}

// build makes the view of all that happened up to now, and forgets what is too
// old for it.
func (s *membership) build(now time.Time) *View {
	maps.DeleteFunc(s.boots, func(name string, k known) bool {
		m, held := s.view.Member(k.Slot)
		return !k.live && now.Sub(k.at) >= ghostTime && (!held || m.name() != name)
	})
	holders := s.holders()
	for _, m := range s.view.Members {
		if holders[m.Slot].Boot.ID == m.Boot.ID {
			continue
		}
		d := Departure{Member: s.boots[m.name()].Member, Fate: Crashed, At: now}
		if d.State == Leaving {
			d.Fate = Left
		}
		s.gone = append(s.gone, d)
	}
	s.gone = slices.DeleteFunc(s.gone, func(d Departure) bool {
		return holders[d.Slot].Boot.ID == d.Boot.ID || now.Sub(d.At) >= s.pace.remember
	})
	s.gone = slices.Delete(s.gone, 0, max(0, len(s.gone)-maxDeparted))

	v := &View{self: s.view.self, boot: s.view.boot}
	for _, m := range holders {
		v.Members = append(v.Members, m)
	}
	slices.SortFunc(v.Members, func(a, b Member) int { return strings.Compare(a.Slot, b.Slot) })
	for _, k := range s.boots {
		if h, held := holders[k.Slot]; k.live && held && k.Boot.Compare(h.Boot) < 0 && h.Gossip != k.Gossip {
			v.Fenced = append(v.Fenced, k.Member)
		}
	}
	slices.SortFunc(v.Fenced, func(a, b Member) int { return strings.Compare(a.name(), b.name()) })
	for _, d := range s.gone {
		if now.Sub(d.At) < s.pace.forget {
			v.Departed = append(v.Departed, d)
		}
	}
	v.absent = absent(s.gone, holders)
	return v
}

// holders returns the newest live boot of each slot. A boot at the address of a
// newer one is dead, only not missed yet, also when the newer one went since: a
// member that is killed, started again at once and stopped has not come back.
func (s *membership) holders() map[string]Member {
	type site struct {
		slot   string
		gossip netip.AddrPort
	}
	newest := make(map[site]Boot, len(s.boots))
	for _, k := range s.boots {
		if at := (site{k.Slot, k.Gossip}); newest[at].Compare(k.Boot) < 0 {
			newest[at] = k.Boot
		}
	}
	holders := make(map[string]Member, len(s.boots))
	for _, k := range s.boots {
		if !k.live || newest[site{k.Slot, k.Gossip}] != k.Boot {
			continue
		}
		if h, taken := holders[k.Slot]; !taken || h.Boot.Compare(k.Boot) < 0 {
			holders[k.Slot] = k.Member
		}
	}
	return holders
}

// absent returns where the latest boot of each slot was that is without one and
// did not leave.
func absent(gone []Departure, holders map[string]Member) []netip.AddrPort {
	var addrs []netip.AddrPort
	done := map[string]bool{}
	for _, d := range slices.Backward(gone) {
		if _, held := holders[d.Slot]; !held && !done[d.Slot] && d.Fate == Crashed {
			addrs = append(addrs, d.Gossip)
		}
		done[d.Slot] = true
	}
	return addrs
}
