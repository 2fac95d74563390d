// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/waittest"
)

const testWait = 30 * time.Second

// TestThreeMembersOwnEverythingOnce: a new cluster gets an owner and an heir for each
// partition, and an acknowledged charge is at both.
func TestThreeMembersOwnEverythingOnce(t *testing.T) {
	c := newCluster(t, 256, "a", "b", "c")
	c.settle()
	ctx := waittest.Context(t, testWait)
	for p := range c.partitions {
		who := c.deciders(p)
		if len(who) != 1 {
			t.Fatalf("partition %d is decided by %v, want one", p, who)
		}
		owner := c.members[who[0]]
		if err := owner.charge(ctx, p, "id"); err != nil {
			t.Fatalf("partition %d: %v", p, err)
		}
		heir := c.members[owner.Place(p).Heir.Name]
		if got, closed := heir.engine.state(p); got["id"].Cost != 1 || !closed {
			t.Errorf("partition %d: heir has %v, closed %v, want the charge that was acknowledged", p, got, closed)
		}
	}
	for name, m := range c.members {
		s, err := m.Status(ctx)
		if err != nil || !s.SafeToLose || s.Owned == 0 || s.Heir == 0 {
			t.Errorf("status of %s = %+v, %v, want that any member may be lost", name, s, err)
		}
		list, err := m.Partitions(ctx)
		if err != nil || len(list) != c.partitions {
			t.Fatalf("partitions of %s: %d, %v, want %d", name, len(list), err, c.partitions)
		}
		owned := 0
		for i, p := range list {
			if p.Partition != i || p.Place != m.Place(i) || !p.HeirComplete || p.Transfer != nil || p.Lag != 0 {
				t.Errorf("partition %d of %s = %+v, want the place %+v, a complete heir and no transfer", i, name, p, m.Place(i))
			}
			if p.Owner.Name == name {
				owned++
			}
		}
		if owned != s.Owned {
			t.Errorf("%s lists %d partitions as its own, and counts %d", name, owned, s.Owned)
		}
	}
}

// callers charge ids at all partitions until they are stopped.
type callers struct {
	c       *cluster
	cancel  context.CancelFunc
	running sync.WaitGroup
	n       atomic.Int64
	mu      sync.Mutex
	members []*member
	ids     []map[string]bool // that were admitted, by partition
}

// call starts callers, each of which charges at some of the partitions.
func (c *cluster) call(n int) *callers {
	ctx, cancel := context.WithCancel(context.Background())
	w := &callers{c: c, cancel: cancel, ids: make([]map[string]bool, c.partitions)}
	for p := range w.ids {
		w.ids[p] = map[string]bool{}
	}
	w.see()
	for k := range n {
		w.running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				p := (i*n + k) % c.partitions
				id := fmt.Sprintf("%d-%d", k, i)
				w.mu.Lock()
				members := w.members
				w.mu.Unlock()
				attempt, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				if c.charge(attempt, members, p, id) == nil {
					w.n.Add(1)
					w.mu.Lock()
					w.ids[p][id] = true
					w.mu.Unlock()
				}
				cancel()
			}
		})
	}
	c.t.Cleanup(w.stop)
	return w
}

// see makes the members of the cluster known to the callers.
func (w *callers) see() {
	members := slices.Collect(maps.Values(w.c.members))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.members = members
}

// more waits for some calls that begin from now on.
func (w *callers) more(n int64) {
	w.c.t.Helper()
	until := w.n.Load() + n
	waittest.Until(w.c.t, "calls", func() bool { return w.n.Load() >= until })
}

func (w *callers) stop() {
	w.cancel()
	w.running.Wait()
}

// check compares what was admitted with what the owners have now.
func (w *callers) check() {
	w.c.t.Helper()
	w.stop()
	total := 0
	for p, ids := range w.ids {
		who := w.c.deciders(p)
		if len(who) != 1 {
			w.c.t.Fatalf("partition %d is decided by %v, want one", p, who)
		}
		got, _ := w.c.members[who[0]].engine.state(p)
		for id := range ids {
			if _, ok := got[id]; !ok {
				w.c.t.Errorf("partition %d: %s lacks %s, which was admitted", p, who[0], id)
			}
		}
		total += len(ids)
	}
	if total == 0 {
		w.c.t.Error("nothing was admitted")
	}
	w.c.t.Logf("%d charges", total)
}

// watch checks until the end of the test that no two members decide at once.
func (c *cluster) watch() {
	members := slices.Collect(maps.Values(c.members))
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for p := 0; ; p = (p + 1) % c.partitions {
			select {
			case <-stop:
				return
			default:
			}
			for _, a := range members {
				if !a.Decides(p, a.Clock()) {
					continue
				}
				for _, b := range members {
					if a != b && b.Decides(p, b.Clock()) && a.Decides(p, a.Clock()) {
						c.t.Errorf("partition %d: %s and %s decide at once", p, a.name, b.name)
						return
					}
				}
			}
		}
	})
	c.t.Cleanup(func() {
		close(stop)
		running.Wait()
	})
}

// pauses measures how long moves stop the decisions for a partition.
type pauses struct {
	mu     sync.Mutex
	sealed map[int]time.Time
	took   []time.Duration
}

func (m *pauses) changed(_ *member, p int, r continuity.Role) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch at, ok := m.sealed[p]; {
	case r == continuity.Sealed:
		m.sealed[p] = now
	case ok && (r == continuity.Active || r == continuity.Exporting):
		m.took = append(m.took, now.Sub(at))
		delete(m.sealed, p)
	}
}

func (m *pauses) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.took) == 0 {
		return "no moves"
	}
	return fmt.Sprintf("%d moves, pause p50 %s p99 %s max %s", len(m.took), m.quantile(0.5), m.quantile(0.99), m.quantile(1))
}

func (m *pauses) quantile(q float64) time.Duration {
	slices.Sort(m.took)
	return m.took[int(q*float64(len(m.took)-1))].Round(10 * time.Microsecond)
}

// allDecided reports whether each partition is decided by one member.
func (c *cluster) allDecided() bool {
	for p := range c.partitions {
		if len(c.deciders(p)) != 1 {
			return false
		}
	}
	return true
}

// TestPlannedMovesLoseNothing: a fourth member joins and another one leaves under load.
func TestPlannedMovesLoseNothing(t *testing.T) {
	moves := &pauses{sealed: map[int]time.Time{}}
	c := &cluster{t: t, partitions: 256, protocol: continuity.Defaults(256), changed: moves.changed}
	c.begin("a", "b", "c")
	c.settle()
	large := strings.Repeat("x", 3*chunkBytes) // copies are in chunks
	for p := range 4 {
		if err := c.charge(waittest.Context(t, testWait), slices.Collect(maps.Values(c.members)), p, large+fmt.Sprint(p)); err != nil {
			t.Fatal(err)
		}
	}
	w := c.call(4)
	w.more(100)
	c.start("d")
	c.show()
	w.see()
	c.settle()
	w.more(100)
	t.Logf("join: %s", moves)

	leaving := c.members["a"]
	leaving.state = continuity.Leaving
	c.show()
	waittest.Until(t, "a to leave", func() bool {
		select {
		case <-leaving.Left():
			return true
		default:
			return false
		}
	})
	c.remove("a")
	c.show()
	w.see()
	c.settle()
	w.more(100)
	w.check()
	for p := range 4 {
		if got, _ := c.members[c.deciders(p)[0]].engine.state(p); got[large+fmt.Sprint(p)].Cost != 1 {
			t.Errorf("partition %d has lost its large record", p)
		}
	}
	t.Logf("join and leave: %s", moves)
	if len(moves.took) == 0 {
		t.Error("nothing was moved")
	}
}

// TestCrashIsNoticedByTheClosedPorts: the heirs of a process that has ended take over, long
// before its leases are over.
func TestCrashIsNoticedByTheClosedPorts(t *testing.T) {
	c := &cluster{t: t, partitions: 256, protocol: continuity.Defaults(256)}
	c.protocol.Lease, c.protocol.Contact, c.protocol.Forget = time.Hour, time.Hour, 3*time.Hour
	c.begin("a", "b", "c")
	c.settle()
	w := c.call(4)
	w.more(200)
	c.watch()
	began := time.Now()
	c.remove("b") // gossip shows b for some time
	w.see()
	waittest.Until(t, "an owner for all partitions", c.allDecided)
	t.Logf("takeover of all partitions after %s", time.Since(began).Round(time.Millisecond))
	w.more(100)
	c.show() // gossip has noticed
	waittest.Until(t, "another heir for all partitions", func() bool {
		for p := range c.partitions {
			if who := c.deciders(p); len(who) != 1 || c.members[who[0]].Place(p).Heir.IsZero() {
				return false
			}
		}
		return true
	})
	w.more(100)
	w.check()
}

// TestCutOffMemberIsReplacedAfterItsLease: whoever is cut off stops deciding before others
// take over, owners whose heir was cut off go on, and all is as before in the end.
func TestCutOffMemberIsReplacedAfterItsLease(t *testing.T) {
	c := newCluster(t, 128, "a", "b", "c")
	c.settle()
	c.watch()
	w := c.call(4)
	w.more(200)
	lost, kept := map[int]uint64{}, map[int]uint64{}
	for p := range c.partitions {
		owner := c.members[c.deciders(p)[0]]
		if place := owner.Place(p); owner.name == "b" {
			lost[p] = place.Origin
		} else if place.Heir.Name == "b" {
			kept[p] = place.Origin
		}
	}
	cutOff := c.members["b"]
	began := time.Now()
	c.cut("b", true)
	waittest.Until(t, "heirs to take over", func() bool {
		for p := range lost {
			if who := c.deciders(p); len(who) != 1 || who[0] == "b" {
				return false
			}
		}
		return true
	})
	t.Logf("takeover after %s", time.Since(began).Round(time.Millisecond))
	for p := range c.partitions {
		if cutOff.Decides(p, cutOff.Clock()) {
			t.Errorf("partition %d is decided by who is cut off", p)
		}
	}
	w.more(200)
	for p, origin := range kept {
		if who := c.deciders(p); len(who) != 1 || c.members[who[0]].Place(p).Origin != origin {
			t.Errorf("partition %d: its owner did not go on when its heir was cut off: %v", p, who)
		}
	}
	c.cut("b", false)
	c.settle()
	w.more(100)
	w.check()
}

// TestChargesWaitForASilentHeir: an owner that is cut off decides until its lease is over, and
// has nothing that waits for an acknowledgement. Its charges wait all the same, also the
// first ones, which would be lost.
func TestChargesWaitForASilentHeir(t *testing.T) {
	c := newCluster(t, 16, "a", "b", "c")
	c.settle()
	m := c.members["b"]
	var mine []int
	for p := range c.partitions {
		if place := m.Place(p); place.Owner.Name == "b" && !place.Heir.IsZero() {
			mine = append(mine, p)
		}
	}
	if len(mine) == 0 {
		t.Fatal("the member owns nothing")
	}
	heard := func() bool {
		for _, p := range mine {
			if now := m.Clock(); m.Lags(p, now) {
				return false
			}
		}
		return true
	}
	waittest.Until(t, "heirs that answer", heard)
	c.cut("b", true)
	began, waited := m.Clock(), 0
	waittest.Until(t, "the end of the leases", func() bool {
		decides := false
		for _, p := range mine {
			now := m.Clock()
			if !m.Decides(p, now) {
				continue
			}
			decides = true
			if now > began+2*maxSilence { // an answer was on its way
				if waited++; !m.Lags(p, now) {
					t.Errorf("partition %d: a charge %v after the cut does not wait", p, now-began)
				}
			}
		}
		return !decides
	})
	if waited == 0 {
		t.Error("no partition was decided after the cut")
	}
	c.cut("b", false)
	c.settle()
	waittest.Until(t, "heirs that answer again", heard)
}

// TestNoWaitForASilentHeir: once an heir is known not to answer, a change does not wait for
// it, until it answers again.
func TestNoWaitForASilentHeir(t *testing.T) {
	c := newCluster(t, 16, "a", "b", "c")
	c.settle()
	owner := c.members["b"]
	replicate := func(id string) (results map[error]int) {
		var changes []Awaited
		for p := range c.partitions {
			if place := owner.Place(p); owner.Decides(p, owner.Clock()) && !place.Heir.IsZero() {
				if seq, err := owner.engine.charge(p, id, 1); err == nil {
					changes = append(changes, Awaited{Partition: p, Origin: place.Origin, Seq: seq})
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), maxSilence/2)
		defer cancel()
		owner.Replicate(ctx, changes)
		results = map[error]int{}
		for i := range changes {
			results[changes[i].Err]++
		}
		return results
	}
	if got := replicate("before"); got[ErrSilent] > 0 {
		t.Errorf("heirs that answer: %v", got)
	}
	c.cut("b", true)
	n := 0
	waittest.Until(t, "changes that do not wait", func() bool {
		n++
		got := replicate(fmt.Sprint("silent ", n))
		return got[ErrSilent] > 0 && got[nil] == 0 && got[context.DeadlineExceeded] == 0
	})
	c.cut("b", false)
	c.settle()
	waittest.Until(t, "changes that heirs have", func() bool {
		n++
		got := replicate(fmt.Sprint("back ", n))
		return got[nil] > 0 && got[ErrSilent] == 0
	})
}

// TestResumedMemberAsksBeforeItDecides: a member that was suspended for longer than its
// leases decides nothing with what it knew.
func TestResumedMemberAsksBeforeItDecides(t *testing.T) {
	c := newCluster(t, 64, "a", "b", "c")
	c.settle()
	m := c.members["a"]
	release, holds := make(chan struct{}), make(chan struct{})
	m.command(func(*loop) {
		close(holds)
		<-release
	})
	<-holds
	m.offset.Add(int64(c.protocol.Lease + time.Second)) // the machine was suspended
	for p := range c.partitions {
		if m.Decides(p, m.Clock()) {
			t.Errorf("partition %d is decided by who was suspended", p)
		}
	}
	close(release)
	c.settle()
	w := c.call(2)
	w.more(200)
	w.check()
}

// TestStoppedLoopIsReplaced: if the loop of a member stops and the rest of its process does
// not, it decides no more when others take over.
func TestStoppedLoopIsReplaced(t *testing.T) {
	c := newCluster(t, 64, "a", "b", "c")
	c.settle()
	c.watch()
	w := c.call(4)
	w.more(100)
	m := c.members["a"]
	release := make(chan struct{})
	m.command(func(*loop) { <-release })
	waittest.Until(t, "others to decide", func() bool {
		for p := range c.partitions {
			if who := c.deciders(p); len(who) != 1 || who[0] == "a" {
				return false
			}
		}
		return true
	})
	if !m.Lags(0, m.Clock()) {
		t.Error("small charges do not wait while nobody looks for them")
	}
	close(release)
	c.settle()
	w.more(100)
	w.check()
}

// TestRecordsThatCannotBeApplied are sent again, and are not acknowledged. If the copy is
// lost with them, all records are sent.
func TestRecordsThatCannotBeApplied(t *testing.T) {
	c := newCluster(t, 16, "a", "b", "c")
	c.settle()
	ctx := waittest.Context(t, testWait)
	owner := c.members[c.deciders(3)[0]]
	heir := c.members[owner.Place(3).Heir.Name]
	for i, how := range [][]int{{failUnchanged, failUnchanged, failUnchanged}, {failCleared}, {failUnchanged, failCleared, failUnchanged}} {
		heir.engine.fail(how...)
		if err := c.charge(ctx, []*member{owner}, 3, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if got, _ := heir.engine.state(3); len(got) != i+1 {
			t.Errorf("heir has %v, want %d charges", got, i+1)
		}
	}
	c.settle()
}

// TestForgottenChangesAreReplacedByACopy: if the list of changes does not reach back far
// enough, the heir gets all records.
func TestForgottenChangesAreReplacedByACopy(t *testing.T) {
	c := newCluster(t, 16, "a", "b", "c")
	c.settle()
	ctx := waittest.Context(t, testWait)
	owner := c.members[c.deciders(3)[0]]
	if err := owner.charge(ctx, 3, "first"); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.engine.charge(3, "second", 1); err != nil {
		t.Fatal(err)
	}
	owner.engine.ForgetChanges(3, owner.engine.Seq(3))
	if err := owner.charge(ctx, 3, "third"); err != nil {
		t.Fatal(err)
	}
	if got, _ := c.members[owner.Place(3).Heir.Name].engine.state(3); len(got) != 3 {
		t.Errorf("heir has %v, want all three", got)
	}
}

// TestLeasesAreRenewedWhileACopyIsRead: reading a large copy takes longer than a lease, and
// the member goes on with the partitions that it owns.
func TestLeasesAreRenewedWhileACopyIsRead(t *testing.T) {
	c := newCluster(t, 16, "a", "b", "c")
	c.settle()
	ctx := waittest.Context(t, testWait)
	owner := c.members[c.deciders(3)[0]]
	heir := c.members[owner.Place(3).Heir.Name]
	if err := owner.charge(ctx, 3, "first"); err != nil {
		t.Fatal(err)
	}
	heir.engine.read.Lock()
	if _, err := owner.engine.charge(3, "second", 1); err != nil {
		t.Fatal(err)
	}
	owner.engine.ForgetChanges(3, owner.engine.Seq(3))
	charged := make(chan error, 1) // cap 1: sent once
	go func() { charged <- owner.charge(ctx, 3, "third") }()
	waittest.Until(t, "the heir to read the copy", func() bool { return heir.engine.reading.Load() > 0 })
	before := map[int]int64{}
	for p := range c.partitions {
		if heir.Decides(p, heir.Clock()) {
			before[p] = heir.parts[p].until.Load()
		}
	}
	for p, until := range before {
		waittest.Until(t, "the heir to renew its own leases", func() bool {
			return heir.parts[p].until.Load() > until+int64(2*c.protocol.Heartbeat)
		})
	}
	heir.engine.read.Unlock()
	if err := <-charged; err != nil {
		t.Fatal(err)
	}
	if got, _ := heir.engine.state(3); len(got) != 3 {
		t.Errorf("heir has %v, want all three", got)
	}
}
