// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// asAttempt returns a context for a unary call that a client makes as an attempt.
func asAttempt(ctx context.Context, attempt uint64) context.Context {
	sent, _ := metadata.FromOutgoingContext(requestid.WithAttempt(ctx, attempt))
	return metadata.NewIncomingContext(ctx, sent)
}

// withdrawn reports whether n remembers that an attempt of a call was withdrawn. If not, the call is
// decided by n.
func (n *node) withdrawn(item *pb.Item, attempt uint64) bool {
	n.t.Helper()
	item.Attempt = attempt
	b, err := n.Batch(waittest.Context(n.t, testWait), &pb.BatchRequest{Items: []*pb.Item{item}})
	if err != nil {
		n.t.Fatalf("Batch() = %v", err)
	}
	return code(b.Results[0]) == codes.Aborted
}

// TestReplayOfWithdrawnAttempt: a call that was admitted in fallback, and whose caller has withdrawn it, is
// not sent to the owner until that has forgotten the withdrawal.
func TestReplayOfWithdrawnAttempt(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	asked, owner := nodes[0], nodes[1]
	q := &pb.CheckRequest{Key: owner.ownedBy(0) + "/u", Tier: "share", RequestId: "r", Requests: new(int64(3))}
	owner.listener.setFrozen(true)
	d, err := asked.Check(asAttempt(waittest.Context(t, time.Second), 77), q)
	if err != nil || d.Route != pb.Route_ROUTE_FALLBACK || d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
		t.Fatalf("Check() = %v, %v, want an admission in fallback", d, err)
	}
	withdrawal := itemOf(&pb.CancelRequest{Key: q.Key, RequestId: q.RequestId})
	withdrawal.Attempt, withdrawal.Withdrawn = 77, q
	b, err := owner.Batch(waittest.Context(t, testWait), &pb.BatchRequest{Items: []*pb.Item{withdrawal}})
	if err != nil || code(b.Results[0]) != codes.OK {
		t.Fatalf("the withdrawal = %v, %v", b, err)
	}
	owner.listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	if used := owner.used(q.Key, q.Tier, "requests"); used != 0 {
		t.Errorf("%d requests are charged, want none", used)
	}
}

// movedKey returns a key that asked takes for one of first, which leaves it to next.
func movedKey(asked, first, next *node) string {
	next.see(asked, next)
	for i := 0; ; i++ {
		if key := first.ownedBy(i); next.mine(next.table.Load(), ring.PartitionOf(key), 0) {
			first.see(asked, next)
			return key + "/u"
		}
	}
}

// TestDeniedByTheNextOwner: what a former owner may have charged is withdrawn if the next one denies the
// call.
func TestDeniedByTheNextOwner(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 3)
	asked, first, next := nodes[0], nodes[1], nodes[2]
	q := &pb.CheckRequest{Key: movedKey(asked, first, next), Tier: "closed", RequestId: "r", Requests: new(int64(91))}
	d, err := asked.Check(asAttempt(waittest.Context(t, testWait), 77), q)
	if err != nil || d.Owner != next.name || d.Outcome != pb.Outcome_OUTCOME_DENIED {
		t.Fatalf("Check() = %v, %v, want a denial by %s", d, err, next.name)
	}
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	if !next.withdrawn(itemOf(q), 77) {
		t.Error("the attempt that the former owner may have charged is not withdrawn")
	}
}

// TestWaitAtTheNextOwner: an attempt that a former owner may have charged is withdrawn when the caller of a
// call that waits at the next one goes, as are those that were made since.
func TestWaitAtTheNextOwner(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 3)
	asked, first, next := nodes[0], nodes[1], nodes[2]
	key := movedKey(asked, first, next)
	ctx := waittest.Context(t, testWait)
	reserve := func(id string) *pb.ReserveRequest { return &pb.ReserveRequest{Key: key, Tier: "waits", RequestId: id} }
	if d, err := next.Reserve(ctx, reserve("holds")); err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
		t.Fatalf("Reserve() = %v, %v", d, err)
	}
	waiting, leave := context.WithCancel(asAttempt(ctx, 77))
	ended := make(chan error, 1)
	go func() {
		_, err := asked.Reserve(waiting, reserve("r"))
		ended <- err
	}()
	waittest.Until(t, "a redirect", func() bool { return asked.metric("bucketring_redirects_total") > 0 })
	asked.see(asked, next) // until then the call is asked again and again
	waittest.Until(t, "the call to wait", func() bool { return next.metric("bucketring_waiting") == 1 })
	leave()
	if err := <-ended; err == nil {
		t.Error("Reserve() = nil after its caller has gone")
	}
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	again := requestid.NextMemberAttempt(77)
	for attempt, want := range map[uint64]bool{77: true, again: true, requestid.NextAttempt(77): false} {
		q := reserve("r")
		q.MaxWait = durationpb.New(0)
		if got := next.withdrawn(itemOf(q), attempt); got != want {
			t.Errorf("attempt %d is withdrawn: %t, want %t", attempt, got, want)
		}
	}
}

// TestWaitOfUnansweredCall: a call that a member may have charged waits as the same attempt, which the owner
// need not list beside another one. It is withdrawn if the call is not admitted.
func TestWaitOfUnansweredCall(t *testing.T) {
	n := newNode(t, "a", &clock{})
	c := call.Of(&pb.CheckRequest{Key: "acme", RequestId: "r"})
	c.Attempt, c.Unanswered = 77, true
	w := n.newWaiting(&c, 0, 0)
	if w.call.Attempt != 77 || w.call.Unanswered || !slices.Equal(w.missedAttempts(), []uint64{77}) {
		t.Errorf("the call waits as attempt %d, and %d are missed, want 77", w.call.Attempt, w.missedAttempts())
	}
}

// TestWaitWhileTheHeirIsSilent: a call that was admitted in line, and that the owner may not answer because
// its heir is silent, is asked again and again. When its caller goes, nothing stays charged: the owner
// can list all attempts.
func TestWaitWhileTheHeirIsSilent(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, func(o *Options) { o.Timeout = 200 * time.Millisecond })
	owner, other := nodes[1], nodes[0]
	key := owner.ownedBy(0)
	ctx := waittest.Context(t, testWait)
	owner.reserveSoon(ctx, key, "a").want(t, "a", pb.Outcome_OUTCOME_ALLOWED)
	waiting, leave := context.WithCancel(ctx)
	answered := other.reserveSoon(waiting, key, "b")
	owner.wantWaiting(1)
	owner.owners.waits.Store(true)
	owner.owners.durable.Store(0)
	if _, err := owner.local.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: "a"}); err != nil {
		t.Fatalf("Settle() = %v", err)
	}
	const asks = 6 // more attempts than a reservation lists
	waittest.Until(t, "the call to be asked again and again", func() bool {
		return other.metric("bucketring_fallbacks_total") >= asks
	})
	leave()
	<-answered.done
	owner.owners.durable.Store(math.MaxUint64)
	waittest.Until(t, "the outbox to be empty", func() bool { return other.Status().Outbox == 0 })
	if used := owner.used(key, waits, "concurrent"); used != 0 {
		t.Errorf("%d slots are held for a caller that has gone, want none", used)
	}
}
