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

var testTiming = timing{debounce: viewDebounce, maxDelay: viewMaxDelay, departedTTL: 20 * time.Second, reconnectTimeout: 60 * time.Second}

// machine drives the step function like Run, with its own clock.
type machine struct {
	state    membership
	now      time.Time
	nextStep time.Time
	views    []*View
}

func newMachine() *machine {
	return &machine{state: newMembership("a", Boot{1, instant(1)}, testTiming), now: time.Unix(1000, 0)}
}

func (m *machine) step(e event) {
	var fx effects
	m.state, fx = step(m.state, e, m.now)
	m.nextStep = fx.nextStep
	if fx.publish != nil {
		m.views = append(m.views, fx.publish)
	}
}

// pass advances the clock and steps when the machine asked for it.
func (m *machine) pass(d time.Duration) {
	end := m.now.Add(d)
	for !m.nextStep.IsZero() && !m.nextStep.After(end) {
		if m.nextStep.After(m.now) {
			m.now = m.nextStep
		}
		m.step(event{kind: eventTick})
	}
	m.now = end
}

func (m *machine) view() *View { return m.state.view }

func member(name string, boot int, state State) Member {
	return Member{
		Name: name, Boot: Boot{ID(boot), instant(int64(boot))}, State: state,
		Gossip: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(boot)}), 6472),
	}
}

// timedEvent is an event of a random history.
type timedEvent struct {
	after time.Duration
	event event
}

func drawHistory(t *rapid.T) []timedEvent {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) timedEvent {
		m := member(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"), rapid.IntRange(1, 4).Draw(t, "boot"), State(rapid.IntRange(1, 3).Draw(t, "state")))
		if rapid.Bool().Draw(t, "same address") {
			m.Gossip = member(m.Name, 9, Joining).Gossip
		}
		kind := eventUp
		if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
			kind = eventDown
		}
		pauses := []time.Duration{0, time.Millisecond, 250 * time.Millisecond, 301 * time.Millisecond, 3 * time.Second, 25 * time.Second}
		return timedEvent{rapid.SampledFrom(pauses).Draw(t, "after"), event{kind, m}}
	}), 1, 40).Draw(t, "history")
}

func TestStepIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		history := drawHistory(t)
		m, latest, published := newMachine(), map[string]event{}, map[*View]string{}
		for _, h := range history {
			m.pass(h.after)
			m.step(h.event)
			latest[h.event.member.gossipName()] = h.event
			if first, last := m.state.firstPending, m.state.lastPending; !first.IsZero() && (m.now.Sub(last) >= viewDebounce || m.now.Sub(first) >= viewMaxDelay) {
				t.Fatalf("at %s: events since %s are in no view", m.now, first)
			}
			for _, v := range m.views {
				if _, seen := published[v]; !seen {
					published[v] = fmt.Sprintf("%+v", *v)
				}
			}
		}
		m.pass(staleBootTime + viewMaxDelay) // until then, a departed boot hides older boots at its address

		// The view must have the newest boot of each name whose latest event is up.
		want := map[string]Member{}
		for _, e := range latest {
			if h, ok := want[e.member.Name]; e.kind == eventUp && (!ok || h.Boot.Compare(e.member.Boot) < 0) {
				want[e.member.Name] = e.member
			}
		}
		var names []string
		for _, v := range m.view().Members {
			names = append(names, v.Name)
			if v != want[v.Name] {
				t.Errorf("member %s = %+v, want %+v", v.Name, v, want[v.Name])
			}
		}
		if sorted := slices.Sorted(maps.Keys(want)); !slices.Equal(names, sorted) {
			t.Errorf("members = %v, want %v", names, sorted)
		}
		checkViews(t, m.views)
		for v, before := range published {
			if now := fmt.Sprintf("%+v", *v); now != before {
				t.Errorf("view %d has changed from\n%s to\n%s", v.Number, before, now)
			}
		}

		// The views do not depend on the order of maps.
		again := newMachine()
		for _, h := range history {
			again.pass(h.after)
			again.step(h.event)
		}
		again.pass(staleBootTime + viewMaxDelay)
		if diff := cmp.Diff(m.views, again.views, cmp.AllowUnexported(View{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("second run differs:\n%s", diff)
		}

		// In the end departed boots are forgotten and no step is due.
		m.pass(testTiming.reconnectTimeout + viewMaxDelay)
		if v := m.view(); len(v.Departed) != 0 || len(v.missing) != 0 || !m.nextStep.IsZero() {
			t.Errorf("at the end: departed %v, missing %v, due %s, want none", v.Departed, v.missing, m.nextStep)
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
				t.Errorf("view %d: %s, last %s, is said to have %s", v.Number, d.gossipName(), d.State, d.Fate)
			}
			if m, ok := v.Member(d.Name); ok && m.Boot.ID == d.Boot.ID {
				t.Errorf("view %d: %s is a member and departed", v.Number, d.gossipName())
			}
			if departed[d.Boot.ID] == nil {
				departed[d.Boot.ID] = map[string]bool{}
			}
			departed[d.Boot.ID][d.Name] = true
		}
		for _, c := range Diff(before, v) {
			if (c.Kind == MemberLeft || c.Kind == MemberCrashed) && !departed[c.Before.Boot.ID][c.Before.Name] {
				t.Errorf("view %d: %s departed, and is not among the departed", v.Number, c.Before.gossipName())
			}
		}
		for _, f := range v.Fenced {
			if m, ok := v.Member(f.Name); !ok || m.Boot.Compare(f.Boot) <= 0 || m.Gossip == f.Gossip {
				t.Errorf("view %d: %s is fenced by %+v", v.Number, f.gossipName(), m)
			}
		}
		before = v
	}
}

// The death of a killed boot is detected after some seconds. Until then it looks
// alive, but it must not become a member again when a newer boot with its name has
// joined and departed.
func TestKilledBootDoesNotReturn(t *testing.T) {
	for _, last := range []State{Serving, Leaving} {
		m := newMachine()
		dead, again := member("b", 2, Serving), member("b", 3, Serving)
		again.Gossip = dead.Gossip
		m.step(event{eventUp, member("a", 1, Serving)})
		m.step(event{eventUp, dead})
		m.pass(time.Second)
		m.step(event{eventUp, again})
		m.pass(time.Second)
		if b, _ := m.view().Member("b"); b != again {
			t.Fatalf("b = %+v, want the newer boot", b)
		}
		again.State = last
		m.step(event{eventDown, again})
		m.pass(time.Second)
		if b, ok := m.view().Member("b"); ok {
			t.Errorf("newer boot departed in state %s: b = %+v, want none", last, b)
		}
		m.step(event{eventDown, dead}) // missed at last
		m.pass(staleBootTime)
		if b, ok := m.view().Member("b"); ok {
			t.Errorf("both departed: b = %+v, want none", b)
		}
	}

	// If the older boot is still alive after staleBootTime, then the clock of its
	// machine was set back between the two.
	m := newMachine()
	crashed, later := member("b", 3, Serving), member("b", 2, Serving)
	later.Gossip = crashed.Gossip
	m.step(event{eventUp, crashed})
	m.step(event{eventUp, later})
	m.step(event{eventDown, crashed})
	m.pass(staleBootTime + viewMaxDelay)
	if b, _ := m.view().Member("b"); b != later {
		t.Errorf("b = %+v, want the boot that is there", b)
	}
}

func TestViewsAreDebounced(t *testing.T) {
	m := newMachine()
	m.step(event{eventUp, member("a", 1, Joining)})
	m.pass(viewDebounce - 1)
	if len(m.views) != 0 {
		t.Fatalf("view %s before %s, want none", viewDebounce-1, viewDebounce)
	}
	m.pass(1)
	if len(m.views) != 1 {
		t.Fatalf("%d views after %s, want one", len(m.views), viewDebounce)
	}
	start := m.now
	for i := range 100 { // without a pause of viewDebounce
		m.step(event{eventUp, member("b", i+2, Joining)})
		m.pass(100 * time.Millisecond)
		if len(m.views) == 2 {
			break
		}
	}
	if got := m.now.Sub(start); got != viewMaxDelay {
		t.Errorf("view among events after %s, want %s", got, viewMaxDelay)
	}
	m.pass(time.Minute)
	number := m.view().Number
	m.step(event{eventUp, m.view().Members[0]})
	m.pass(time.Minute)
	if got := m.view().Number; got != number {
		t.Errorf("view after an event without a change = %d, want still %d", got, number)
	}
}

func TestCrashedMembersStayMissing(t *testing.T) {
	m := newMachine()
	apply := func(kind eventKind, who Member) {
		m.step(event{kind, who})
		m.pass(time.Second)
	}
	for i, name := range []string{"a", "b", "c", "d"} {
		apply(eventUp, member(name, i+1, Serving))
	}
	apply(eventDown, member("b", 2, Serving))
	apply(eventDown, member("c", 3, Serving))
	apply(eventUp, member("d", 4, Leaving))
	apply(eventDown, member("d", 4, Leaving))
	if got, want := fmt.Sprint(m.view().missing), "[10.0.0.3:6472 10.0.0.2:6472]"; got != want {
		t.Errorf("missing = %s, want %s: the last eventDown first, and not d, which left", got, want)
	}
	if got := m.view().Roster(); got != 3 {
		t.Errorf("Roster() = %d, want 3", got)
	}
	apply(eventUp, member("c", 7, Joining)) // as another boot
	m.pass(testTiming.departedTTL)
	if got, want := fmt.Sprint(m.view().missing), "[10.0.0.2:6472]"; got != want {
		t.Errorf("missing = %s, want %s: forgotten in the view, but not to be asked", got, want)
	}
	if got := m.view().Departed; len(got) != 0 {
		t.Errorf("departed = %v, want none", got)
	}
	apply(eventUp, member("b", 2, Serving)) // the same boot: a split has healed
	if got := m.view().missing; len(got) != 0 {
		t.Errorf("missing = %v, want none", got)
	}
}

func TestDepartedAreBounded(t *testing.T) {
	m := newMachine()
	for _, kind := range []eventKind{eventUp, eventDown} {
		for i := range maxDeparted + 100 {
			m.step(event{kind, member(fmt.Sprintf("name-%04d", i), i+1, Serving)})
		}
		m.pass(viewDebounce)
	}
	if got := len(m.view().Departed); got != maxDeparted {
		t.Errorf("%d boots remembered, want %d", got, maxDeparted)
	}
	if got, want := m.view().Departed[0].Name, "name-0100"; got != want {
		t.Errorf("first of the departed = %s, want %s: all gone at once, in order of names", got, want)
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
