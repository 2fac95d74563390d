// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/replication"
)

// small makes a check that charges less than 1 % of its limit.
func small(key, id string) *pb.CheckRequest {
	return &pb.CheckRequest{Key: key, Tier: "thousand", RequestId: id}
}

// takeOver makes a member the owner of all partitions in place of one that is cut off, and
// that learns of it: it has changes of the partition of key after a number which the new
// owner lacks.
func takeOver(former, next *node, key string, after uint64) {
	place := replication.Place{Role: continuity.Fenced, Owner: former.owners.self}
	former.owners.set(func(int) replication.Place { return place })
	former.Report(continuity.Repay{Partition: ring.PartitionOf(key), Owner: next.owners.self, FromCopy: true, After: after})
	place = replication.Place{Owner: next.owners.self, Origin: 2}
	former.owners.set(func(int) replication.Place { return place })
	place.Role = continuity.Active
	next.owners.set(func(int) replication.Place { return place })
}

// awaitRepaid waits until what a former owner has to report is repaid.
func (n *node) awaitRepaid(key string) {
	n.t.Helper()
	before := n.owners.repaid.Load()
	waittest.Until(n.t, "the report to be answered", func() bool {
		n.Report(continuity.Repay{Partition: ring.PartitionOf(key)})
		return n.owners.repaid.Load() > before
	})
}

// TestReport: an owner answers small charges, is cut off, and another member takes over
// without the last ones. These are charged there once, when the heir of the new owner has
// them too.
func TestReport(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	former, next := nodes[0], nodes[1]
	key := former.ownedBy(0)
	former.owners.waits.Store(true)
	ctx := waittest.Context(t, testWait)
	for i := range 5 {
		former.owners.durable.Store(uint64(min(i, 2)))
		d, err := former.Check(ctx, small(key, fmt.Sprint("call", i)))
		if err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED || d.Route != pb.Route_ROUTE_LOCAL {
			t.Fatalf("Check() %d = %v, %v, want it admitted at once", i, d, err)
		}
	}
	counter := perDay(key, 10_000, 3)
	former.count(counter)
	next.owners.waits.Store(true)
	if d, err := next.local.Check(ctx, small(key, "call3")); err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
		t.Fatalf("Check() again = %v, %v, want it admitted", d, err) // the caller did not get the first answer
	}
	takeOver(former, next, key, 2)
	waittest.Until(t, "the charges at the next owner", func() bool {
		former.Report(continuity.Repay{Partition: ring.PartitionOf(key)})
		return next.used(key, "thousand", "requests") == 3 && next.counted(key) == 3
	})
	if n := former.owners.repaid.Load(); n != 0 {
		t.Fatalf("repaid %d times before the heir of the next owner has the charges", n)
	}
	next.owners.durable.Store(math.MaxUint64)
	former.awaitRepaid(key)
	former.awaitRepaid(key)
	if got := next.used(key, "thousand", "requests"); got != 3 {
		t.Errorf("%d requests used at the next owner, want 3: each once", got)
	}
	if got := next.counted(key); got != 3 {
		t.Errorf("%d hits counted at the next owner, want 3", got)
	}
	if got := former.metric("bucketring_repaid_calls_total"); got != 4 {
		t.Errorf("%v calls reported, want 4", got)
	}
	if got := former.metric("bucketring_repay_lost_calls_total") + former.metric("bucketring_repay_lost_partitions_total"); got != 0 {
		t.Errorf("%v calls and partitions lost, want 0", got)
	}
}

// TestReportUnreachable: the new owner does not answer. The report is repeated.
func TestReportUnreachable(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short)
	former, next := nodes[0], nodes[1]
	key := former.ownedBy(0)
	former.owners.waits.Store(true)
	if _, err := former.Check(waittest.Context(t, testWait), small(key, "a")); err != nil {
		t.Fatal(err)
	}
	next.listener.setFrozen(true)
	takeOver(former, next, key, 0)
	waittest.Until(t, "a failed report", func() bool {
		former.reports.mu.Lock()
		defer former.reports.mu.Unlock()
		p := former.reports.mu.partitions[ring.PartitionOf(key)]
		return p != nil && p.attempts > 0
	})
	if former.owners.repaid.Load() != 0 {
		t.Error("repaid without an answer")
	}
	next.listener.setFrozen(false)
	former.awaitRepaid(key)
	if got := next.used(key, "thousand", "requests"); got != 1 {
		t.Errorf("%d requests used at the next owner, want 1", got)
	}
}

// TestReportRejected: what cannot be reported is counted.
func TestReportRejected(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	former, next := nodes[0], nodes[1]
	key := former.ownedBy(0)
	former.owners.waits.Store(true)
	ctx := waittest.Context(t, testWait)
	if _, err := former.Check(ctx, small(key, "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := next.local.Check(ctx, small(key+"/other", "a")); err != nil { // the id is of another request
		t.Fatal(err)
	}
	takeOver(former, next, key, 0)
	former.awaitRepaid(key)
	if got := former.metric("bucketring_repay_lost_calls_total"); got != 1 {
		t.Errorf("%v calls lost, want 1", got)
	}
	if got := former.metric("bucketring_repay_lost_partitions_total"); got != 0 {
		t.Errorf("%v partitions lost, want 0", got)
	}
	former.owners.durable.Store(9)
	takeOver(former, next, key, 5) // and its heir had acknowledged more
	waittest.Until(t, "the metric", func() bool { return former.metric("bucketring_repay_lost_partitions_total") == 1 })
}

// TestAnsweredLate: a call that was decided before another member took over, and is
// answered afterwards, is reported too.
func TestAnsweredLate(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	former, next := nodes[0], nodes[1]
	key := former.ownedBy(0)
	takeOver(former, next, key, 4)
	former.awaitRepaid(key)
	for seq := uint64(4); seq <= 5; seq++ {
		c := call.Of(small(key, fmt.Sprint("seq", seq)))
		if !former.remember(&c, change(0, seq), 0) {
			t.Fatalf("remember(%d) = false, want true", seq)
		}
	}
	if got := former.owners.journaled.Load(); got != 1 {
		t.Errorf("journaled %d times, want once: the new owner has change 4", got)
	}
	former.awaitRepaid(key)
	if got := next.used(key, "thousand", "requests"); got != 1 {
		t.Errorf("%d requests used at the next owner, want 1", got)
	}
}

// TestFullWaits: when no more calls can be remembered, small charges wait for the heir.
func TestFullWaits(t *testing.T) {
	t.Parallel()
	n := newCluster(t, 2)[0]
	n.owners.waits.Store(true)
	n.answered.size.Add(maxAnswered)
	answered := make(chan error, 1)
	go func() {
		_, err := n.Check(waittest.Context(t, testWait), small(n.ownedBy(0), "a"))
		answered <- err
	}()
	waittest.Until(t, "the charge", func() bool { return n.owners.changed.Load() > 0 })
	select {
	case err := <-answered:
		t.Fatalf("Check() = %v before the heir has the charge", err)
	default:
	}
	n.owners.durable.Store(math.MaxUint64)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if n.answered.partitions[ring.PartitionOf(n.ownedBy(0))].newer.calls != nil {
		t.Error("a call is remembered that the heir has")
	}
}

// TestRememberAllocates: a small charge that the heir does not have yet allocates no more
// than any other.
func TestRememberAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	n := newCluster(t, 2)[0]
	q := small(n.ownedBy(0), "")
	ids := make([]string, 3000)
	for i := range ids {
		ids[i] = fmt.Sprint("id", i)
	}
	cost := func() float64 {
		return testing.AllocsPerRun(200, func() {
			q.RequestId, ids = ids[0], ids[1:]
			if d, err := n.Check(t.Context(), q); err != nil || d.Replayed {
				t.Fatalf("Check() = %v, %v", d, err)
			}
		})
	}
	plain := cost()
	n.owners.waits.Store(true)
	cost() // the memory grows
	p := ring.PartitionOf(q.Key)
	if len(n.answered.partitions[p].newer.calls) == 0 {
		t.Fatal("nothing is remembered")
	}
	c := call.Of(q)
	if got := testing.AllocsPerRun(200, func() { _, _ = n.answered.add(&c, change(0, 500), 500, 0) }); got != 0 {
		t.Errorf("add() allocates %v times, want 0", got)
	}
	if got := cost(); got > plain {
		t.Errorf("a check that is remembered allocates %v times, others %v times", got, plain)
	}
}

// TestAnsweredMemory: calls that the heir has are forgotten, while others come, and when
// none come.
func TestAnsweredMemory(t *testing.T) {
	a := newAnswered()
	c := call.Of(small("key", "id"))
	p := &a.partitions[c.Partition]
	for seq := uint64(1); seq < 10_000; seq++ {
		if _, err := a.add(&c, change(1, seq), max(seq, 10)-10, 0); err != nil {
			t.Fatal(err)
		}
	}
	if calls, most := len(p.older.calls)+len(p.newer.calls), 25*(requestAt+40); calls > most {
		t.Errorf("%d bytes of calls are kept, want at most %d", calls, most)
	}
	if got, want := a.size.Load(), int64(cap(p.older.calls)+cap(p.newer.calls)); got != want {
		t.Errorf("size = %d, want %d", got, want)
	}
	a.trim(func(int) uint64 { return 9_998 })
	if len(p.newer.calls) == 0 {
		t.Error("a call was forgotten that the heir does not have")
	}
	var seqs []uint64
	for rest := a.end(c.Partition, 1, 9_995); len(rest) > 0; {
		var next []byte
		next, rest = cutCall(rest)
		seqs = append(seqs, seqOf(next))
	}
	if fmt.Sprint(seqs) != "[9996 9997 9998 9999]" {
		t.Errorf("end() = %v, want the calls after 9995", seqs)
	}
	if _, err := a.add(&c, change(2, 1), 0, 0); err != nil { // this member is the owner again
		t.Fatal(err)
	}
	if late, err := a.add(&c, change(1, 9_999), 0, 0); late == nil || err != nil {
		t.Errorf("add() of the last time as an owner = %v, %v, want a late call", late, err)
	}
	a.trim(func(int) uint64 { return 1 })
	if got := a.size.Load(); got != 0 {
		t.Errorf("size = %d after all is acknowledged, want 0", got)
	}
}

// TestReplayWaits: a replay is answered only when the heir has it, however small it is.
func TestReplayWaits(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	asked, owner := nodes[0], nodes[1]
	owner.owners.waits.Store(true)
	item := itemOf(small(owner.ownedBy(0), "a"))
	item.Replay = true
	if err := asked.deliver(waittest.Context(t, 200*time.Millisecond), item); err == nil {
		t.Error("deliver() = nil before the heir has the charge")
	}
	owner.owners.durable.Store(math.MaxUint64)
	if err := asked.deliver(waittest.Context(t, testWait), item); err != nil {
		t.Errorf("deliver() = %v", err)
	}
	if got := owner.used(owner.ownedBy(0), "thousand", "requests"); got != 1 {
		t.Errorf("%d requests used, want 1", got)
	}
}

// TestReportUncertain: an owner that may have a call recognizes it for 30 s. Older ones are
// counted as lost, so that none is charged twice.
func TestReportUncertain(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	former, next := nodes[0], nodes[1]
	key := former.ownedBy(0)
	for i, at := range []time.Duration{-maxUncertainAge - 1, -maxUncertainAge} { // it is 0 now
		c := call.Of(small(key, fmt.Sprint(i)))
		if !former.remember(&c, change(0, uint64(i+1)), at) {
			t.Fatalf("remember(%d) = false, want true", i)
		}
	}
	former.owners.set(func(int) replication.Place {
		return replication.Place{Role: continuity.Fenced, Owner: former.owners.self}
	})
	former.Report(continuity.Repay{Partition: ring.PartitionOf(key), Owner: next.owners.self, FromCopy: true, Uncertain: true})
	takeOver(former, next, key, 0)
	former.awaitRepaid(key)
	if got := next.used(key, "thousand", "requests"); got != 1 {
		t.Errorf("%d requests used at the next owner, want 1", got)
	}
	if got := former.metric("bucketring_repay_lost_calls_total"); got != 1 {
		t.Errorf("%v calls lost, want 1", got)
	}
}
