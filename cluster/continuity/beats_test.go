// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"maps"
	"testing"
	"time"
)

// numbered returns a machine of three members whose heartbeats, and those of the others, go
// by their numbers, the clock, and the others.
func numbered(t *testing.T) (*Machine, time.Duration, map[ID]*other) {
	t.Helper()
	m, now := machineOf(t, 3)
	in := others(m, true)
	for range 10 {
		now += m.o.Heartbeat
		beatAll(m, now, in)
	}
	for id, o := range in {
		if o.named != 0 || o.granted != (len(o.beats) > 0) {
			t.Fatalf("%d partitions are named to %s, and its %d partitions are granted: %v, want 0, all", o.named, id, len(o.beats), o.granted)
		}
	}
	return m, now, in
}

// decidesAll reports whether a machine decides for all partitions that it owns.
func decidesAll(m *Machine, now time.Duration) bool {
	for i := range m.parts {
		if m.parts[i].known.Owner == m.self && !m.Decides(i, now) {
			return false
		}
	}
	return true
}

// TestNumbersRenewLeases: while nothing changes, numbers renew all leases, and a member looks
// at all partitions only from time to time.
func TestNumbersRenewLeases(t *testing.T) {
	m, now, in := numbered(t)
	last, looks := m.lastBeat, 0
	for range 100 {
		now += m.o.Heartbeat
		before := m.restsUntil
		beatAll(m, now, in)
		if m.restsUntil != before {
			looks++
		}
		if !decidesAll(m, now) {
			t.Fatal("a lease has ended")
		}
		for i := range m.parts {
			if p := &m.parts[i]; p.known.Heir == m.self && m.grantedUntil(p) != now+withDrift(m.o.Lease) {
				t.Fatalf("p%d: granted until %v after now, want %v", i, m.grantedUntil(p)-now, withDrift(m.o.Lease))
			}
		}
	}
	if m.lastBeat != last || looks > 25 {
		t.Errorf("partitions were named in %d of 100 heartbeats, and looked at in %d, want 0 and about 20", m.lastBeat-last, looks)
	}
}

// TestEarlierVersionsAreAskedByName: a member that does not know numbers is named all
// partitions, always.
func TestEarlierVersionsAreAskedByName(t *testing.T) {
	m, now := machineOf(t, 3)
	in := others(m, false)
	for range 50 {
		now += m.o.Heartbeat
		beatAll(m, now, in)
		if heir := m.parts[0].known.Heir; in[heir].named == 0 {
			t.Fatalf("nothing is named to %s", heir)
		}
		if !decidesAll(m, now) {
			t.Fatal("a lease has ended")
		}
	}
}

// changes are what ends a list that has a partition, of an owner or of an heir.
var changes = map[string]func(m *Machine, i int, now time.Duration){
	"another arrangement": func(m *Machine, i int, _ time.Duration) {
		a := m.parts[i].known
		a.Prev, a.Term = a.Term, ballotAbove(a.Term, 9)
		m.learn(i, a)
	},
	"a proposal": func(m *Machine, i int, _ time.Duration) { m.propose(i, takeOver, ID{}) },
	"a roster": func(m *Machine, _ int, now time.Duration) {
		m.Step(from(m, m.peers[0].ID, Entry{Kind: RosterIs, Roster: Roster{Epoch: 3, Names: m.roster.Names}}), now)
	},
	"a copy from disk": func(m *Machine, i int, now time.Duration) { m.Step(Restored{i, Copy{}}, now) },
	"a newer boot": func(m *Machine, i int, _ time.Duration) {
		k := m.parts[i].known
		for _, id := range []ID{k.Owner, k.Heir} {
			m.meet(ID{id.Name, id.Boot + 1})
		}
	},
}

// TestChangesEndWhatAnHeirGrants: after a change of one partition, the heir does not grant
// leases by the number, and what it has granted stays granted.
func TestChangesEndWhatAnHeirGrants(t *testing.T) {
	changes := maps.Clone(changes)
	changes["no majority in reach"] = func(m *Machine, _ int, now time.Duration) { m.contactUntil = now }
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			m, now, _ := numbered(t)
			const i = 2 // n00 is its heir
			p := &m.parts[i]
			granted, owner := m.grantedUntil(p), p.known.Owner
			change(m, i, now)
			now += TickInterval
			got := entriesOf(m.Step(from(m, owner, Entry{Kind: BeatAll, Transfer: 1, Sent: 5}), now), owner, GrantAll)
			if len(got) > 1 || len(got) == 1 && (got[0].Flag || got[0].Transfer != 1) || len(got) == 0 && m.peer(owner.Name).ID == owner {
				t.Errorf("the answer is %+v, want a refusal", got)
			}
			if until := m.grantedUntil(p); until < granted {
				t.Errorf("granted until %v, want at least %v as before", until, granted)
			}
		})
	}
}

// TestChangesEndWhatAnOwnerAsks: after a change of one partition, an answer to the number
// renews no lease, those that there were stay, and the owner names its partitions again.
func TestChangesEndWhatAnOwnerAsks(t *testing.T) {
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			m, now, in := numbered(t)
			const i, j = 0, 3 // n01 is the heir of both
			heir := m.parts[i].known.Heir
			asks := *m.peer(heir.Name).asks
			change(m, i, now)
			m.Step(from(m, heir, Entry{Kind: GrantAll, Transfer: asks.number, Sent: now, Flag: true}), now)
			if until := m.parts[j].leaseUntil; until != asks.at+m.o.Lease {
				t.Errorf("p%d: the lease ends %v after it was asked for, want %v", j, until-asks.at, m.o.Lease)
			}
			if m.peer(heir.Name).ID != heir || m.parts[j].stale {
				return // nothing is asked for
			}
			now += m.o.Heartbeat
			beatAll(m, now, in)
			if in[heir].named < len(m.parts)/3-1 {
				t.Errorf("%d partitions are named, want all that the two hold together", in[heir].named)
			}
		})
	}
}

// TestSilentHeirIsNoticed: an owner whose heartbeats go by numbers goes on without a silent
// heir as soon as one that names its partitions.
func TestSilentHeirIsNoticed(t *testing.T) {
	m, now, _ := numbered(t)
	since, want := now, m.o.HeirSilence+m.o.Heartbeat
	for now-since < want {
		if m.parts[0].proposal != nil {
			t.Errorf("goes on without its heir after %v, want %v", now-since, want)
		}
		now += m.o.Heartbeat
		m.Step(Tick{}, now)
	}
	if m.parts[0].proposal == nil {
		t.Errorf("does not go on without its heir after %v", want)
	}
}

// TestLateAnswers: if answers take longer than a heartbeat, the heartbeats of an unchanged list
// keep their number, so that a late answer is not lost.
func TestLateAnswers(t *testing.T) {
	m, now := machineOf(t, 3)
	heir := m.parts[0].known.Heir
	var first Entry
	for range 4 {
		now += m.o.Heartbeat
		got := entriesOf(m.Step(Tick{}, now), heir, BeatAll)
		if len(got) != 1 || !got[0].Flag || first.Transfer != 0 && got[0].Transfer != first.Transfer {
			t.Fatalf("the heartbeat is %+v, want the same number as %+v", got, first)
		}
		if first.Transfer == 0 {
			first = got[0]
		}
	}
	m.Step(from(m, heir, Entry{Kind: GrantAll, Transfer: first.Transfer, Sent: first.Sent, Flag: true}), now)
	now += m.o.Heartbeat
	if got := entriesOf(m.Step(Tick{}, now), heir, BeatAll); len(got) != 1 || got[0].Flag || got[0].Transfer != first.Transfer {
		t.Errorf("the heartbeat after the answer is %+v, want the number only", got)
	}
	if until := m.parts[0].leaseUntil; until != first.Sent+m.o.Lease {
		t.Errorf("the lease ends %v after the first heartbeat, want %v", until-first.Sent, m.o.Lease)
	}
}

// TestNumbersAreOfWholeMessages: the partitions in a message that only repeats a number are
// not those of the number.
func TestNumbersAreOfWholeMessages(t *testing.T) {
	m, now, _ := numbered(t)
	owner := m.parts[2].known.Owner
	merged := from(m, owner, Entry{Kind: BeatAll, Transfer: 7, Sent: now})
	merged.Message.Sent, merged.Message.Beats = now, []Beat{{2, m.parts[2].known.Term}}
	for range 2 {
		if got := entriesOf(m.Step(merged, now), owner, GrantAll); len(got) != 1 || got[0].Flag {
			t.Errorf("the answer is %+v, want a refusal", got)
		}
	}
}
