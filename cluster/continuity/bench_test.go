// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"fmt"
	"testing"
	"time"
	"unsafe"
)

// machineOf returns a machine that owns 1/n of 4,096 partitions, with n members,
// and the clock.
func machineOf(tb testing.TB, n int) (*Machine, time.Duration) {
	tb.Helper()
	const partitions = 4096
	now := time.Hour
	m, err := New(ID{"n00", 1}, Defaults(partitions), now)
	if err != nil {
		tb.Fatal(err)
	}
	var v View
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("n%02d", i))
		v.Members = append(v.Members, Member{ID{names[i], 1}, Serving})
	}
	v.Targets = fixedTargets(names)
	m.Step(v, now)
	m.adoptRoster(Roster{Epoch: 1, Names: names})
	m.ready, m.settled = true, 1
	for i := range partitions {
		owner, heir := ID{names[i%n], 1}, ID{names[(i+1)%n], 1}
		m.learn(i, Arrangement{Term: ballotAbove(0, 7), Origin: ballotAbove(0, 7), Owner: owner, Heir: heir})
	}
	for i := range partitions {
		if p := &m.parts[i]; p.known.Owner == m.self {
			p.heir.heard, p.heir.complete, p.synced = true, true, true
		}
	}
	return m, now
}

type fixedTargets []string

func (f fixedTargets) Owner(p int) string { return f[p%len(f)] }
func (f fixedTargets) Heir(p int) string  { return f[(p+1)%len(f)] }

// beatAll is a heartbeat of the cluster: a tick, the pings and beats of all others,
// and their answers.
func beatAll(m *Machine, now time.Duration, in map[ID]*other) {
	for _, msg := range m.Step(Tick{}, now).Messages {
		o := in[msg.To]
		reply := &o.message
		reply.Entries = append(reply.Entries[:0], Entry{Kind: Ping, Sent: now, Digest: m.digest, Flag: true})
		for _, e := range msg.Entries {
			switch {
			case e.Kind == Ping:
				reply.Entries = append(reply.Entries, Entry{Kind: Pong, Sent: e.Sent})
			case e.Kind == BeatAll && o.numbers:
				reply.Entries = append(reply.Entries, Entry{Kind: GrantAll, Transfer: e.Transfer, Sent: e.Sent, Flag: true})
			}
		}
		reply.Sent, reply.Answered, reply.Beats, reply.Grants = now, now, reply.Beats[:0], reply.Grants[:0]
		for _, b := range msg.Beats {
			reply.Grants = append(reply.Grants, Grant{b.Partition, b.Term, Copy{Origin: m.parts[b.Partition].known.Origin, Complete: true}})
		}
		if o.numbers && len(o.beats) > 0 {
			reply.Entries = append(reply.Entries, Entry{Kind: BeatAll, Transfer: 1, Sent: now, Flag: !o.granted})
		}
		if !o.granted {
			for _, i := range o.beats {
				reply.Beats = append(reply.Beats, Beat{uint32(i), m.parts[i].known.Term})
			}
		}
		o.named = len(msg.Beats)
		if grants := entriesOf(m.Step(Received{*reply}, now), msg.To, GrantAll); len(grants) > 0 {
			o.granted = grants[0].Flag
		}
	}
}

// other is another member: its messages, and the partitions of which it asks for
// leases.
type other struct {
	message Message
	beats   []int
	numbers bool // it numbers its heartbeats and knows those of m
	granted bool // whether m has granted all of beats
	named   int  // how many partitions m has named to it last
}

func others(m *Machine, numbers bool) map[ID]*other {
	in := map[ID]*other{}
	for i := range m.peers {
		in[m.peers[i].ID] = &other{message: Message{From: m.peers[i].ID, To: m.self, Epoch: 1}, numbers: numbers}
	}
	for i := range m.parts {
		if k := m.parts[i].known; k.Heir == m.self {
			in[k.Owner].beats = append(in[k.Owner].beats, i)
		}
	}
	return in
}

// BenchmarkHeartbeat measures what a member does in each 100 ms when nothing
// happens: one tick with pings and beats, and the answers.
func BenchmarkHeartbeat(b *testing.B) {
	for _, n := range []int{3, 100} {
		for _, numbers := range []bool{false, true} {
			b.Run(fmt.Sprintf("members=%d/numbers=%v", n, numbers), func(b *testing.B) {
				m, now := machineOf(b, n)
				in := others(m, numbers)
				b.ReportAllocs()
				for b.Loop() {
					now += m.o.Heartbeat
					beatAll(m, now, in)
				}
				for i := range m.parts {
					if m.parts[i].proposal != nil {
						b.Fatalf("p%d: a proposal is in progress", i)
					}
				}
			})
		}
	}
}

// BenchmarkIdleTick measures a tick between two heartbeats.
func BenchmarkIdleTick(b *testing.B) {
	m, now := machineOf(b, 100)
	beatAll(m, now+m.o.Heartbeat, others(m, false))
	m.Step(Tick{}, now+m.o.Heartbeat+1)
	b.ReportAllocs()
	for b.Loop() {
		m.Step(Tick{}, now+m.o.Heartbeat+2)
	}
}

// BenchmarkChanged measures what a charge of the owner costs here, and that of a
// large charge with the acknowledgement of the heir.
func BenchmarkChanged(b *testing.B) {
	for _, urgent := range []bool{false, true} {
		b.Run(fmt.Sprintf("urgent=%v", urgent), func(b *testing.B) {
			m, now := machineOf(b, 3)
			beatAll(m, now+m.o.Heartbeat, others(m, false))
			k := m.Current(0)
			b.ReportAllocs()
			for seq := uint64(1); b.Loop(); seq++ {
				fx := m.Step(Changed{{0, seq, urgent}}, now)
				if urgent && len(fx.States) != 1 {
					b.Fatalf("%+v", fx)
				}
				if urgent {
					m.Step(Received{Message{From: k.Heir, To: m.self, Epoch: 1, Acks: []Acknowledgement{
						{Term: k.Term, Copy: Copy{k.Origin, seq, true}},
					}}}, now)
				}
			}
		})
	}
}

func BenchmarkDecides(b *testing.B) {
	m, now := machineOf(b, 3)
	beatAll(m, now+m.o.Heartbeat, others(m, false))
	now += m.o.Heartbeat + 1
	b.ReportAllocs()
	decides := 0
	for i := 0; b.Loop(); i++ {
		if m.Decides(i%4096, now) {
			decides++
		}
	}
	if decides == 0 {
		b.Error("decides nothing")
	}
}

func TestDecidesAllocatesNothing(t *testing.T) {
	m, now := machineOf(t, 3)
	beatAll(m, now+m.o.Heartbeat, others(m, false))
	now += m.o.Heartbeat + 1
	if !m.Decides(0, now) || m.Decides(1, now) {
		t.Fatalf("decides: %v, %v, want true, false", m.Decides(0, now), m.Decides(1, now))
	}
	if n := testing.AllocsPerRun(100, func() { m.Decides(0, now) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// TestStateIsCompact bounds the memory of a member that has nothing in progress.
func TestStateIsCompact(t *testing.T) {
	if size := unsafe.Sizeof(partition{}); size > 1024 {
		t.Errorf("a partition has %d bytes, want at most 1024: 4 MiB for 4,096", size)
	}
	t.Logf("a partition has %d bytes", unsafe.Sizeof(partition{}))
}
