// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var testPace = pace{quiet: quietTime, limit: limitTime, forget: 20 * time.Second, remember: 60 * time.Second}

// machine drives the step function as Run does, on a clock of its own.
type machine struct {
	state membership
	now   time.Time
	wake  time.Time
	views []*View
}

func newMachine() *machine {
	return &machine{state: newMembership("a", Boot{1, instant(1)}, testPace), now: time.Unix(1000, 0)}
}

func (m *machine) step(e event) {
	var fx effects
	m.state, fx = step(m.state, e, m.now)
	m.wake = fx.wake
	if fx.publish != nil {
		m.views = append(m.views, fx.publish)
	}
}

// pass lets time go by, and wakes the machine when it asked to be.
func (m *machine) pass(d time.Duration) {
	end := m.now.Add(d)
	for !m.wake.IsZero() && !m.wake.After(end) {
		if m.wake.After(m.now) {
			m.now = m.wake
		}
		m.step(event{kind: passed})
	}
	m.now = end
}

func (m *machine) view() *View { return m.state.view }

func member(slot string, boot int, state State) Member {
	return Member{
		Slot: slot, Boot: Boot{ID(boot), instant(int64(boot))}, State: state,
		Gossip: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(boot)}), 6472),
	}
}

// say is an event of a history, that a naive model can judge, too.
type say struct {
	after time.Duration
	event event
}

func drawHistory(t *rapid.T) []say {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) say {
		m := member(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "slot"), rapid.IntRange(1, 4).Draw(t, "boot"), State(rapid.IntRange(1, 3).Draw(t, "state")))
		if rapid.Bool().Draw(t, "same address") {
			m.Gossip = member(m.Slot, 9, Joining).Gossip
		}
		kind := observed
		if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
			kind = lost
		}
		pauses := []time.Duration{0, time.Millisecond, 250 * time.Millisecond, 301 * time.Millisecond, 3 * time.Second, 25 * time.Second}
		return say{rapid.SampledFrom(pauses).Draw(t, "after"), event{kind, m}}
	}), 1, 40).Draw(t, "history")
}

func TestStepIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		history := drawHistory(t)
		m, latest, published := newMachine(), map[string]event{}, map[*View]string{}
		for _, h := range history {
			m.pass(h.after)
			m.step(h.event)
			latest[h.event.member.name()] = h.event
			if first, last := m.state.first, m.state.last; !first.IsZero() && (m.now.Sub(last) >= quietTime || m.now.Sub(first) >= limitTime) {
				t.Fatalf("at %s: events since %s are in no view", m.now, first)
			}
			for _, v := range m.views {
				if _, seen := published[v]; !seen {
					published[v] = fmt.Sprintf("%+v", *v)
				}
			}
		}
		m.pass(ghostTime + limitTime) // until then, who went stands in the way of older boots at its address

		// The view is that of whoever looks at the latest word of each boot.
		want := map[string]Member{}
		for _, e := range latest {
			if h, ok := want[e.member.Slot]; e.kind == observed && (!ok || h.Boot.Compare(e.member.Boot) < 0) {
				want[e.member.Slot] = e.member
			}
		}
		var slots []string
		for _, v := range m.view().Members {
			slots = append(slots, v.Slot)
			if v != want[v.Slot] {
				t.Errorf("member %s = %+v, want %+v", v.Slot, v, want[v.Slot])
			}
		}
		if sorted := slices.Sorted(maps.Keys(want)); !slices.Equal(slots, sorted) {
			t.Errorf("members = %v, want %v", slots, sorted)
		}
		checkViews(t, m.views)
		for v, before := range published {
			if now := fmt.Sprintf("%+v", *v); now != before {
				t.Errorf("view %d has changed from\n%s to\n%s", v.Number, before, now)
			}
		}

		// The order of maps does not show.
		again := newMachine()
		for _, h := range history {
			again.pass(h.after)
			again.step(h.event)
		}
		again.pass(ghostTime + limitTime)
		if diff := cmp.Diff(m.views, again.views, cmp.AllowUnexported(View{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("second run differs:\n%s", diff)
		}

		// In the end all that is gone is forgotten, and nothing is due any more.
		m.pass(testPace.remember + limitTime)
		if v := m.view(); len(v.Departed) != 0 || len(v.absent) != 0 || !m.wake.IsZero() {
			t.Errorf("after all time: departed %v, absent %v, due %s, want none", v.Departed, v.absent, m.wake)
		}
	})
}

// checkViews checks what holds between each view and the one before it.
func checkViews(t *rapid.T, views []*View) {
	before := &View{}
	for i, v := range views {
		if v.Number != uint64(i)+1 || v.sameAs(before) {
			t.Errorf("view %d after view %d is the same or misnumbered", v.Number, before.Number)
		}
		departed := map[ID]map[string]bool{}
		for i, d := range v.Departed {
			if i > 0 && d.At.Before(v.Departed[i-1].At) {
				t.Errorf("view %d: departures are out of order", v.Number)
			}
			if (d.Fate == Left) != (d.State == Leaving) {
				t.Errorf("view %d: %s, last %s, is said to have %s", v.Number, d.name(), d.State, d.Fate)
			}
			if m, ok := v.Member(d.Slot); ok && m.Boot.ID == d.Boot.ID {
				t.Errorf("view %d: %s is a member and departed", v.Number, d.name())
			}
			if departed[d.Boot.ID] == nil {
				departed[d.Boot.ID] = map[string]bool{}
			}
			departed[d.Boot.ID][d.Slot] = true
		}
		for _, c := range Diff(before, v) {
			if (c.Kind == MemberLeft || c.Kind == MemberCrashed) && !departed[c.Before.Boot.ID][c.Before.Slot] {
				t.Errorf("view %d: %s went, and is not among the departed", v.Number, c.Before.name())
			}
		}
		for _, f := range v.Fenced {
			if m, ok := v.Member(f.Slot); !ok || m.Boot.Compare(f.Boot) <= 0 || m.Gossip == f.Gossip {
				t.Errorf("view %d: %s is fenced by %+v", v.Number, f.name(), m)
			}
		}
		before = v
	}
}

// A boot that was killed is missed after some seconds. Until then it looks
// alive, and must not get its slot back from a newer boot that has come and gone.
func TestGhostDoesNotGetItsSlotBack(t *testing.T) {
	for _, last := range []State{Serving, Leaving} {
		m := newMachine()
		dead, again := member("b", 2, Serving), member("b", 3, Serving)
		again.Gossip = dead.Gossip
		m.step(event{observed, member("a", 1, Serving)})
		m.step(event{observed, dead})
		m.pass(time.Second)
		m.step(event{observed, again})
		m.pass(time.Second)
		if b, _ := m.view().Member("b"); b != again {
			t.Fatalf("b = %+v, want the newer boot", b)
		}
		again.State = last
		m.step(event{lost, again})
		m.pass(time.Second)
		if b, there := m.view().Member("b"); there {
			t.Errorf("newer boot went in state %s: b = %+v, want nobody", last, b)
		}
		m.step(event{lost, dead}) // missed at last
		m.pass(ghostTime)
		if b, there := m.view().Member("b"); there {
			t.Errorf("both went: b = %+v, want nobody", b)
		}
	}

	// If the older one is still there when it must have been missed, then the
	// clock of its machine was set back between the two.
	m := newMachine()
	crashed, later := member("b", 3, Serving), member("b", 2, Serving)
	later.Gossip = crashed.Gossip
	m.step(event{observed, crashed})
	m.step(event{observed, later})
	m.step(event{lost, crashed})
	m.pass(ghostTime + limitTime)
	if b, _ := m.view().Member("b"); b != later {
		t.Errorf("b = %+v, want the boot that is there", b)
	}
}

func TestViewsAreDebounced(t *testing.T) {
	m := newMachine()
	m.step(event{observed, member("a", 1, Joining)})
	m.pass(quietTime - 1)
	if len(m.views) != 0 {
		t.Fatalf("view %s before %s, want none", quietTime-1, quietTime)
	}
	m.pass(1)
	if len(m.views) != 1 {
		t.Fatalf("%d views after %s, want one", len(m.views), quietTime)
	}
	start := m.now
	for i := range 100 { // never quiet
		m.step(event{observed, member("b", i+2, Joining)})
		m.pass(100 * time.Millisecond)
		if len(m.views) == 2 {
			break
		}
	}
	if got := m.now.Sub(start); got != limitTime {
		t.Errorf("view among events after %s, want %s", got, limitTime)
	}
	m.pass(time.Minute)
	number := m.view().Number
	m.step(event{observed, m.view().Members[0]})
	m.pass(time.Minute)
	if got := m.view().Number; got != number {
		t.Errorf("view after news that are none = %d, want still %d", got, number)
	}
}

func TestPeersAreRememberedUntilTheySayGoodbye(t *testing.T) {
	m := newMachine()
	tell := func(kind eventKind, who Member) {
		m.step(event{kind, who})
		m.pass(time.Second)
	}
	for i, slot := range []string{"a", "b", "c", "d"} {
		tell(observed, member(slot, i+1, Serving))
	}
	tell(lost, member("b", 2, Serving))
	tell(lost, member("c", 3, Serving))
	tell(observed, member("d", 4, Leaving))
	tell(lost, member("d", 4, Leaving))
	if got, want := fmt.Sprint(m.view().absent), "[10.0.0.3:6472 10.0.0.2:6472]"; got != want {
		t.Errorf("absent = %s, want %s: the last lost first, and not d, which left", got, want)
	}
	if got := m.view().Roster(); got != 3 {
		t.Errorf("Roster() = %d, want 3", got)
	}
	tell(observed, member("c", 7, Joining)) // as another boot
	m.pass(testPace.forget)
	if got, want := fmt.Sprint(m.view().absent), "[10.0.0.2:6472]"; got != want {
		t.Errorf("absent = %s, want %s: forgotten in the view, but not to be asked", got, want)
	}
	if got := m.view().Departed; len(got) != 0 {
		t.Errorf("departed = %v, want none", got)
	}
	tell(observed, member("b", 2, Serving)) // the same boot: a split has healed
	if got := m.view().absent; len(got) != 0 {
		t.Errorf("absent = %v, want none", got)
	}
}

func TestDepartedAreBounded(t *testing.T) {
	m := newMachine()
	for _, kind := range []eventKind{observed, lost} {
		for i := range maxDeparted + 100 {
			m.step(event{kind, member(fmt.Sprintf("slot-%04d", i), i+1, Serving)})
		}
		m.pass(quietTime)
	}
	if got := len(m.view().Departed); got != maxDeparted {
		t.Errorf("%d boots remembered, want %d", got, maxDeparted)
	}
	if got, want := m.view().Departed[0].Slot, "slot-0100"; got != want {
		t.Errorf("first of the departed = %s, want %s: all gone at once, in order of slots", got, want)
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct{ got, want any }{
		{Serving, "serving"},
		{State(9), "state 9"},
		{Left, "left"},
		{Crashed, "crashed"},
		{MemberUpdated, "updated"},
		{ChangeKind(9), "change 9"},
		{ID(10), "000000000000000a"},
	} {
		if got := fmt.Sprint(tt.got); got != tt.want {
			t.Errorf("String() = %q, want %q", got, tt.want)
		}
	}
	var id ID
	if err := id.UnmarshalText([]byte("0x")); err == nil || !strings.Contains(err.Error(), "16 hexadecimal") {
		t.Errorf("UnmarshalText(0x) = %v, want an error", err)
	}
}
