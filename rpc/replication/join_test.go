// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/handshake"
)

// TestOneMemberGrows: what one member charged alone, without waiting for anybody, is kept when
// others join.
func TestOneMemberGrows(t *testing.T) {
	c := newCluster(t, 64, "a")
	c.settle()
	a := c.members["a"]
	if a.Waits() {
		t.Error("a member that is alone waits for others")
	}
	w := c.call(2)
	w.more(100)
	c.start("b")
	c.show()
	w.see()
	c.settle()
	w.more(100)
	c.start("c")
	c.show()
	w.see()
	c.settle()
	w.more(100)
	w.check()
	if !a.Waits() {
		t.Error("a member of three does not wait for others")
	}
}

// TestMemberReturnsAfterACrash: its next boot gets its partitions back with all charges.
func TestMemberReturnsAfterACrash(t *testing.T) {
	c := newCluster(t, 64, "a", "b", "c")
	c.settle()
	w := c.call(2)
	w.more(100)
	for _, name := range []string{"b", "c", "a"} {
		c.remove(name)
		w.see()
		w.more(20)
		c.start(name)
		c.show()
		w.see()
		c.settle()
		w.more(50)
	}
	w.check()
}

// TestRestartedMemberMayLeave: a boot that answers at the address of the one before proves
// that this has ended, even if nobody has seen its ports closed. Otherwise the member could
// not leave for a minute.
func TestRestartedMemberMayLeave(t *testing.T) {
	c := &cluster{
		t: t, partitions: 64, protocol: continuity.Defaults(64), direct: true,
		at: map[string]Address{"c": {GRPC: freeport.Test(t), Gossip: freeport.Test(t)}},
	}
	c.begin("a", "b", "c")
	c.settle()
	c.members["c"].kill()
	m := c.start("c")
	c.show()
	c.settle()
	m.state = continuity.Leaving
	c.show()
	select {
	case <-m.Left():
	case <-time.After(testWait):
		t.Errorf("c has not left %v after its restart", testWait)
	}
}

// TestFormerBootsAreForgotten: a member that is started again and again is known as it is now.
func TestFormerBootsAreForgotten(t *testing.T) {
	c := newCluster(t, 64, "a", "b", "c")
	c.settle()
	for range 3 {
		c.remove("b")
		c.start("b")
		c.show()
		c.settle()
	}
	for _, m := range c.members {
		waittest.Until(t, m.name+" to know two members", func() bool {
			c.show()
			known := map[continuity.ID]bool{}
			if err := m.inLoop(t.Context(), "contacts", func(l *loop) {
				for id := range l.contacts {
					known[id] = true
				}
			}); err != nil {
				t.Fatal(err)
			}
			for _, o := range c.members {
				if o != m && !known[o.self] {
					return false
				}
			}
			return len(known) == len(c.members)-1
		})
	}
}

// TestMembersThatCannotTalk refuse each other, say why, and exchange nothing.
func TestMembersThatCannotTalk(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(c *cluster, b *member)
		reason string
	}{
		"versions": {func(_ *cluster, b *member) { b.handshake.Versions = handshake.Versions{Protocol: 7, Minimum: 7} }, "b speaks protocol 7 only, and this member protocol 1 only: upgrade this member"},
		"keys":     {func(_ *cluster, b *member) { b.handshake.Keys = func() [][]byte { return [][]byte{[]byte("another")} } }, "another cluster key"},
	} {
		t.Run(name, func(t *testing.T) {
			if v := handshake.Current(); name == "versions" && v.Protocol != 1 {
				t.Skip("the message names other versions")
			}
			c := &cluster{t: t, partitions: 8, protocol: continuity.Defaults(8), prepare: func(m *member) {
				if m.name == "b" {
					tt.change(nil, m)
				}
			}}
			c.begin("a", "b")
			waittest.Until(t, "the reason to be known", func() bool {
				s, err := c.members["a"].Status(context.Background())
				return err == nil && len(s.Members) == 1 && !s.Members[0].Connected && strings.Contains(s.Members[0].Problem, tt.reason)
			})
			for _, m := range c.members {
				s, err := m.Status(context.Background())
				if err != nil || s.Roster.Epoch != 0 || s.SafeToLose {
					t.Errorf("status of %s = %+v, %v, want no roster", m.name, s, err)
				}
			}
		})
	}
}

// TestWait covers how a wait can end.
func TestWait(t *testing.T) {
	c := newCluster(t, 8, "a", "b", "c")
	c.settle()
	owner := c.members[c.deciders(3)[0]]
	ctx := waittest.Context(t, testWait)
	origin := owner.Place(3).Origin
	for name, m := range c.members {
		if m == owner {
			continue
		}
		if err := m.waitOwn(ctx, 3, 1); !errors.Is(err, ErrLost) {
			t.Errorf("Wait() at %s, which is not the owner = %v, want ErrLost", name, err)
		}
	}
	if err := owner.waitSince(ctx, 3, origin-1, 0); !errors.Is(err, ErrLost) {
		t.Errorf("WaitSince() an earlier time as the owner = %v, want ErrLost", err)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := owner.waitOwn(short, 3, 1000); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait() for what nobody changed = %v, want the error of the context", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- owner.waitOwn(ctx, 3, 1000) }()
	waittest.Until(t, "the waiter", func() bool {
		p := &owner.parts[3]
		p.waiting.Lock()
		defer p.waiting.Unlock()
		return len(p.waiting.list) == 1
	})
	next := make(chan Place, 1)
	other := c.members[owner.Place(3).Heir.Name]
	go func() {
		place, _ := other.Await(ctx, 3, func(p Place) bool { return p.Role == continuity.Active })
		next <- place
	}()
	owner.kill()
	if err := <-ended; !errors.Is(err, ErrLost) {
		t.Errorf("Wait() of a host that ends = %v, want ErrLost", err)
	}
	if place := <-next; place.Owner != other.self || place.Origin == origin {
		t.Errorf("Await() = %+v, want the next owner %s", place, other.self)
	}
	if owner.Decides(3, owner.Clock()) {
		t.Error("a host that has ended decides")
	}
	if _, err := owner.engine.charge(3, "late", 1); err == nil {
		t.Error("the engine of a host that has ended decides")
	}
}

// TestMergedMessagesSayTheSame: one message has all entries, acknowledgements, beats and grants of two, or the
// two stay apart.
func TestMergedMessagesSayTheSame(t *testing.T) {
	message := rapid.Custom(func(t *rapid.T) continuity.Message {
		m := continuity.Message{Epoch: rapid.Uint64Range(1, 2).Draw(t, "epoch")}
		for i := range rapid.IntRange(0, 3).Draw(t, "entries") {
			m.Entries = append(m.Entries, continuity.Entry{Kind: continuity.Accepted, Partition: i, Ballot: rapid.Uint64().Draw(t, "ballot")})
		}
		for range rapid.IntRange(0, 2).Draw(t, "acks") {
			m.Acks = append(m.Acks, continuity.Acknowledgement{Term: rapid.Uint64().Draw(t, "term")})
		}
		for range rapid.IntRange(0, 2).Draw(t, "beats") {
			m.Sent = time.Duration(rapid.IntRange(1, 2).Draw(t, "sent"))
			m.Beats = append(m.Beats, continuity.Beat{Term: rapid.Uint64().Draw(t, "term")})
		}
		for range rapid.IntRange(0, 2).Draw(t, "grants") {
			m.Answered = time.Duration(rapid.IntRange(1, 2).Draw(t, "answered"))
			m.Grants = append(m.Grants, continuity.Grant{Term: rapid.Uint64().Draw(t, "term")})
		}
		return m
	})
	said := func(messages ...continuity.Message) (what []string) {
		for _, m := range messages {
			for _, e := range m.Entries {
				what = append(what, fmt.Sprint("entry ", m.Epoch, e))
			}
		}
		for _, m := range messages {
			for _, a := range m.Acks {
				what = append(what, fmt.Sprint("ack ", m.Epoch, a))
			}
		}
		for _, m := range messages {
			for _, b := range m.Beats {
				what = append(what, fmt.Sprint("beat ", m.Epoch, m.Sent, b))
			}
		}
		for _, m := range messages {
			for _, g := range m.Grants {
				what = append(what, fmt.Sprint("grant ", m.Epoch, m.Answered, g))
			}
		}
		return what
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := message.Draw(t, "a"), message.Draw(t, "b")
		want := said(a, b)
		got := said(a, b)
		merged := a
		if merge(&merged, &b) {
			got = said(merged)
		} else if !reflect.DeepEqual(merged, a) {
			t.Fatalf("a message that was not merged has changed: %+v", merged)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("merged says %v, want %v", got, want)
		}
	})
}

// TestPacer: copies together get no more than the rate.
func TestPacer(t *testing.T) {
	p := pacer{rate: 1000}
	ctx, cancel := context.WithCancel(context.Background())
	before := time.Now()
	if err := p.pace(ctx, 5000); err != nil {
		t.Errorf("the first bytes wait: %v", err)
	}
	if next := p.mu.next.Sub(before); next < 5*time.Second {
		t.Errorf("after 5000 bytes at 1000 a second, the next ones wait for %s, want 5s", next)
	}
	cancel()
	if err := p.pace(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("pace() = %v, want the error of the context", err)
	}
}
