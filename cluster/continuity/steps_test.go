// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"testing"
	"time"
)

// entriesOf returns the entries of a kind that a step sends to a member.
func entriesOf(fx Effects, to ID, kind Kind) (list []Entry) {
	for _, msg := range fx.Messages {
		if msg.To != to {
			continue
		}
		for _, e := range msg.Entries {
			if e.Kind == kind {
				list = append(list, e)
			}
		}
	}
	return list
}

// from returns a message of a member with one entry.
func from(m *Machine, id ID, e Entry) Received {
	return Received{Message{From: id, To: m.self, Epoch: m.roster.Epoch, Entries: []Entry{e}}}
}

// TestArrangementsAreToldInSteps: a member that asks for all arrangements is told them over
// some ticks, each once, also if it asks again meanwhile.
func TestArrangementsAreToldInSteps(t *testing.T) {
	m, now := machineOf(t, 3)
	asker := m.peers[0].ID
	told := make([]int, len(m.parts))
	ask := func() {
		if got := entriesOf(m.Step(from(m, asker, Entry{Kind: AskKnown}), now), asker, Known); len(got) > tellAtOnce {
			t.Fatalf("%d arrangements are told at once, want at most %d", len(got), tellAtOnce)
		}
	}
	ask()
	ticks := len(m.parts)/tellAtOnce + 2
	for i := range ticks {
		now += TickInterval
		list := entriesOf(m.Step(Tick{}, now), asker, Known)
		if len(list) > tellAtOnce {
			t.Fatalf("%d arrangements are told in a tick, want at most %d", len(list), tellAtOnce)
		}
		for _, e := range list {
			told[e.Partition]++
		}
		if i == 3 {
			ask()
		}
	}
	for p, n := range told {
		if n != 1 {
			t.Fatalf("partition %d was told %d times in %d ticks, want once", p, n, ticks)
		}
	}
}

// TestAsksForArrangementsThatItMissed: digests that differ and stay the same say that
// something was missed; while both change, they say so only after a while.
func TestAsksForArrangementsThatItMissed(t *testing.T) {
	for _, c := range []struct {
		name   string
		digest func(ping int) uint64
		want   int // the ping after which it asks
	}{
		{"the same digest", func(int) uint64 { return 1 }, steadyDiffers},
		{"other digests", func(ping int) uint64 { return uint64(ping) }, maxDiffers},
		{"moves that end", func(ping int) uint64 { return uint64(min(ping, 4)) }, 4 + steadyDiffers - 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, now := machineOf(t, 3)
			other := m.peers[0].ID
			for ping := 1; ping <= 2*maxDiffers; ping++ {
				now += m.o.Heartbeat
				fx := m.Step(from(m, other, Entry{Kind: Ping, Sent: now, Digest: c.digest(ping), Flag: true}), now)
				if len(entriesOf(fx, other, AskKnown)) > 0 {
					if ping != c.want {
						t.Errorf("it asked after %d pings, want %d", ping, c.want)
					}
					return
				}
			}
			t.Errorf("it never asked, want after %d pings", c.want)
		})
	}
}

// TestAsksOneMemberAtATime: if the digests of all others differ, the answer of one of them is
// enough, and only if it was not, another one is asked.
func TestAsksOneMemberAtATime(t *testing.T) {
	m, now := machineOf(t, 3)
	var asked []string
	var at time.Duration
	for range 8 {
		now += m.o.Heartbeat
		for i := range m.peers {
			id := m.peers[i].ID
			fx := m.Step(from(m, id, Entry{Kind: Ping, Sent: now, Digest: 1, Flag: true}), now)
			if len(entriesOf(fx, id, AskKnown)) == 0 {
				continue
			}
			if len(asked) > 0 && now-at < askEvery {
				t.Errorf("%s was asked %v after %s, want %v", id.Name, now-at, asked[len(asked)-1], askEvery)
			}
			asked, at = append(asked, id.Name), now
		}
	}
	if len(asked) != 2 || asked[0] == asked[1] {
		t.Errorf("asked %v, want both others", asked)
	}
}

// TestVotesAreCollectedInAPause: while votes are asked for, tables of votes differ, and a
// member that votes already does not ask for those of others, for settleWait at most.
func TestVotesAreCollectedInAPause(t *testing.T) {
	for _, c := range []struct {
		name     string
		busy     time.Duration // how long votes are asked for after the new roster
		min, max time.Duration // after which time it asks
	}{
		{"calm", 0, settleCalm, settleCalm + 2*TickInterval},
		{"a few moves", settleCalm, 2 * settleCalm, 2*settleCalm + 2*TickInterval},
		{"moves without an end", time.Minute, settleWait, settleWait + 2*TickInterval},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, now := machineOf(t, 3)
			m.booted -= time.Second // it has started long ago
			other := m.peers[0].ID
			asks := func(fx Effects) bool {
				n := 0
				for i := range m.peers {
					n += len(entriesOf(fx, m.peers[i].ID, AskVotes))
				}
				return n > 0
			}
			ballot := uint64(0)
			vote := func() Effects {
				ballot = ballotAbove(max(ballot, m.parts[0].promised), 9)
				return m.Step(from(m, other, Entry{Kind: Prepare, Partition: 0, Ballot: ballot, Value: m.parts[0].known}), now)
			}
			vote()
			next := Roster{Epoch: 2, Names: m.roster.Names}
			if asks(m.Step(from(m, other, Entry{Kind: RosterIs, Roster: next}), now)) {
				t.Fatal("it asked at once")
			}
			for since := now; now-since < 2*settleWait; {
				now += TickInterval
				if now-since <= c.busy {
					if asks(vote()) {
						t.Fatal("it asked because of a vote")
					}
				}
				if asks(m.Step(Tick{}, now)) {
					if took := now - since; took < c.min || took > c.max {
						t.Errorf("it asked after %v, want %v to %v", took, c.min, c.max)
					}
					return
				}
			}
			t.Error("it never asked")
		})
	}
}

// TestCopiesBesideCalls: a member that must hand everything over begins more copies as soon as
// some have ended. While calls change what it owns, it does so once per heartbeat only, unless
// they wait for an heir.
func TestCopiesBesideCalls(t *testing.T) {
	for _, c := range []struct {
		name    string
		changed time.Duration // how long ago a call changed a partition
		noHeir  bool
		tick    int // offers in a tick between two heartbeats
	}{
		{"beside calls", 0, false, 0},
		{"beside calls, without an heir", 0, true, Defaults(1).MaxTransfers},
		{"without calls", time.Minute, false, Defaults(1).MaxTransfers},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, now := machineOf(t, 3)
			m.Step(Changed{{Partition: 0, Seq: 1}}, now)
			now += c.changed
			for i := range m.parts {
				p := &m.parts[i]
				p.heirHeard = now
				if c.noHeir && p.known.Owner == m.self {
					p.known.Heir = ID{}
				}
			}
			view := View{Targets: fixedTargets{"n01", "n02", "n00"}}
			for _, name := range []string{"n00", "n01", "n02"} {
				view.Members = append(view.Members, Member{ID{name, 1}, Serving})
			}
			m.Step(view, now)
			for i := range m.peers {
				m.peers[i].contact = now
			}
			offers := func() (n int) {
				fx := m.Step(Tick{}, now)
				for _, p := range m.peers {
					n += len(entriesOf(fx, p.ID, Offer))
				}
				return n
			}
			m.transfersEnded, m.nextWalk = true, now+TickInterval
			if n := offers(); n != c.tick {
				t.Errorf("%d copies begin after others have ended, want %d", n, c.tick)
			}
			for i := range m.parts {
				m.parts[i].export = nil
			}
			now += TickInterval
			if n := offers(); n != m.o.MaxTransfers {
				t.Errorf("%d copies begin with a heartbeat, want %d", n, m.o.MaxTransfers)
			}
		})
	}
}
