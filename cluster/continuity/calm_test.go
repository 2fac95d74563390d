// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"testing"
	"time"
)

// TestCalmMembersTickRarely: members of a cluster in which nothing changes are told the time
// once in a heartbeat, 100 times in 10 s.
func TestCalmMembersTickRarely(t *testing.T) {
	s := calm(t, 3)
	ticks := make([]int, len(s.nodes))
	last := make([]time.Duration, len(s.nodes))
	for range 10 * time.Second / TickInterval {
		s.run(t, TickInterval)
		for i, n := range s.nodes {
			if n.m.ticked != last[i] {
				last[i] = n.m.ticked
				ticks[i]++
			}
		}
	}
	for i, got := range ticks {
		if got < 80 || got > 130 { // views of the simulation bring some more
			t.Errorf("%s has %d ticks in 10 s, want about 100", s.nodes[i].id, got)
		}
	}
	s.checkEnd()
	s.run(t, 0)
}

// TestChangesAreFollowedByATick: a charge has its owner look again within 20 ms, until its heir
// has it.
func TestChangesAreFollowedByATick(t *testing.T) {
	m, now := machineOf(t, 3)
	for range 20 { // until it is calm
		now = max(now, m.NextTick())
		for _, asked := range m.Step(Tick{}, now).Messages {
			answer := Message{From: asked.To, To: m.self, Epoch: m.roster.Epoch, Answered: asked.Sent, Entries: []Entry{{Kind: Pong, Sent: now}}}
			for _, b := range asked.Beats {
				p := &m.parts[b.Partition]
				answer.Grants = append(answer.Grants, Grant{Partition: b.Partition, Term: b.Term, Copy: Copy{Origin: p.known.Origin, Seq: p.copy.Seq, Complete: true}})
			}
			m.Step(Received{answer}, now)
		}
	}
	if next := m.NextTick(); next <= m.ticked+TickInterval {
		t.Fatalf("the next tick is due %s after the last one, want the next heartbeat", next-m.ticked)
	}
	for i := range m.parts {
		if m.parts[i].known.Owner == m.self {
			m.Step(Changed{{i, m.parts[i].copy.Seq + 1, false}}, now)
			break
		}
	}
	if next := m.NextTick(); next > m.ticked+TickInterval {
		t.Errorf("the next tick is due %s after the last one, want %s at most", next-m.ticked, TickInterval)
	}
}
