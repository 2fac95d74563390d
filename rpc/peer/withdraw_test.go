// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestLateReserve: an owner decides a reserve whose caller was answered by the
// fallback meanwhile. What was admitted there is one charge, what was denied
// none, and the owner holds no slot for anybody.
func TestLateReserve(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tier    string
		outcome pb.Outcome
	}{{"guarded", pb.Outcome_OUTCOME_DENIED}, {"free", pb.Outcome_OUTCOME_ALLOWED}} {
		for _, form := range []string{"reserve", "batch"} {
			t.Run(tt.tier+"/"+form, func(t *testing.T) {
				t.Parallel()
				nodes := newCluster(t, 2) // with a timeout that does not end the stream
				asked, owner := nodes[0], nodes[1]
				key := owner.ownedBy(0) + "/u"
				ctx := waittest.Context(t, testWait)
				q := &pb.ReserveRequest{Key: key, Tier: tt.tier, RequestId: "late", InputTokens: 100, MaxOutputTokens: new(int64(400))}
				reserve := func() *pb.Decision {
					t.Helper()
					ctx := waittest.Context(t, time.Second)
					if form == "reserve" {
						d, err := asked.Reserve(ctx, q)
						if err != nil {
							t.Fatalf("Reserve() = %v", err)
						}
						return d
					}
					b, err := asked.Batch(ctx, batchOf(q))
					if err != nil || b.Results[0].GetDecision() == nil {
						t.Fatalf("Batch() = %v, %v", b, err)
					}
					return b.Results[0].GetDecision()
				}
				eventuallyForwarded(t, asked, func() (pb.Route, error) { // the stream is there
					d, err := asked.Check(ctx, &pb.CheckRequest{Key: owner.ownedBy(1), RequestId: "open"})
					return d.GetRoute(), err
				})
				decided := owner.metric("bucketring_decisions_total", tt.tier, "allowed")
				owner.listener.setFrozen(true)
				d := reserve()
				if d.Route != pb.Route_ROUTE_FALLBACK || d.Outcome != tt.outcome {
					t.Fatalf("Reserve() = %v, want %v in fallback", d, tt.outcome)
				}
				if n := asked.Status().Outbox; n != 1 {
					t.Errorf("%d calls wait for the owner, want 1", n)
				}
				owner.listener.setFrozen(false)
				waittest.Until(t, "the owner to decide late", func() bool {
					return owner.metric("bucketring_decisions_total", tt.tier, "allowed") > decided
				})
				waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
				if tt.outcome == pb.Outcome_OUTCOME_ALLOWED {
					s, err := asked.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: d.RequestId, OutputTokens: new(int64(30))})
					if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED {
						t.Fatalf("Settle() = %v, %v", s, err)
					}
					waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
				}
				want := int64(0)
				if tt.outcome == pb.Outcome_OUTCOME_ALLOWED {
					want = 130
				}
				if used := owner.used(key, tt.tier, "concurrent"); used != 0 {
					t.Errorf("the owner has %d slots taken, want 0", used)
				}
				if used := owner.used(key, tt.tier, "tokens"); used != want {
					t.Errorf("the owner has %d tokens, want %d", used, want)
				}
			})
		}
	}
}

// TestLateCheck: an owner decides a check that the fallback denied meanwhile, or
// admitted. What was denied is charged to no limit, and what was admitted once.
func TestLateCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tier    string
		outcome pb.Outcome
		used    int64
	}{{"closed", pb.Outcome_OUTCOME_DENIED, 0}, {"share", pb.Outcome_OUTCOME_ALLOWED, 3}} {
		for _, form := range []string{"check", "batch"} {
			t.Run(tt.tier+"/"+form, func(t *testing.T) {
				t.Parallel()
				nodes := newCluster(t, 2) // with a timeout that does not end the stream
				asked, owner := nodes[0], nodes[1]
				key := owner.ownedBy(0) + "/u"
				ctx := waittest.Context(t, testWait)
				eventuallyForwarded(t, asked, func() (pb.Route, error) { // the stream is there
					d, err := asked.Check(ctx, &pb.CheckRequest{Key: owner.ownedBy(1), RequestId: "open"})
					return d.GetRoute(), err
				})
				decided := owner.metric("bucketring_decisions_total", tt.tier, "allowed")
				owner.listener.setFrozen(true)
				q := &pb.CheckRequest{Key: key, Tier: tt.tier, RequestId: "late", Requests: new(int64(3))}
				short := waittest.Context(t, time.Second)
				var d *pb.Decision
				if form == "check" {
					var err error
					if d, err = asked.Check(short, q); err != nil {
						t.Fatalf("Check() = %v", err)
					}
				} else {
					b, err := asked.Batch(short, batchOf(q))
					if err != nil || b.Results[0].GetDecision() == nil {
						t.Fatalf("Batch() = %v, %v", b, err)
					}
					d = b.Results[0].GetDecision()
				}
				if d.Route != pb.Route_ROUTE_FALLBACK || d.Outcome != tt.outcome {
					t.Fatalf("the answer is %v, want %v in fallback", d, tt.outcome)
				}
				owner.listener.setFrozen(false)
				waittest.Until(t, "the owner to decide late", func() bool {
					return owner.metric("bucketring_decisions_total", tt.tier, "allowed") > decided
				})
				waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
				if used := owner.used(key, tt.tier, "requests"); used != tt.used {
					t.Errorf("the owner has %d requests, want %d", used, tt.used)
				}
			})
		}
	}
}

// TestDeniedAndRetried: the caller of a reserve that was denied in fallback asks
// again with the same id. It gets an answer of the owner, which what is told of
// the first time does not undo.
func TestDeniedAndRetried(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 3)
	asked, owner, other := nodes[0], nodes[1], nodes[2]
	key := owner.ownedBy(0) + "/u"
	ctx := waittest.Context(t, testWait)
	for _, n := range []*node{asked, other} {
		eventuallyForwarded(t, n, func() (pb.Route, error) {
			d, err := n.Check(ctx, &pb.CheckRequest{Key: owner.ownedBy(1)})
			return d.GetRoute(), err
		})
	}
	q := &pb.ReserveRequest{Key: key, Tier: "guarded", RequestId: "r", InputTokens: 100, MaxOutputTokens: new(int64(400))}
	owner.listener.setFrozen(true)
	if d, err := asked.Reserve(waittest.Context(t, time.Second), q); err != nil || d.Outcome != pb.Outcome_OUTCOME_DENIED {
		t.Fatalf("Reserve() = %v, %v, want a denial", d, err)
	}
	owner.listener.setFrozen(false)
	eventuallyForwarded(t, other, func() (pb.Route, error) {
		d, err := other.Reserve(ctx, q)
		return d.GetRoute(), err
	})
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 && other.Status().Outbox == 0 })
	if used := owner.used(key, "guarded", "concurrent"); used != 1 {
		t.Errorf("the owner has %d slots taken, want 1", used)
	}
	s, err := other.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: "r", OutputTokens: new(int64(30))})
	if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED {
		t.Fatalf("Settle() = %v, %v", s, err)
	}
	if used := owner.used(key, "guarded", "tokens"); used != 130 {
		t.Errorf("the owner has %d tokens, want 130", used)
	}
}

// TestWithdrawalInBatch: a withdrawal that the outbox delivers takes back its own
// attempt, and not the reservation of another one.
func TestWithdrawalInBatch(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	asked, owner := nodes[0], nodes[1]
	key := owner.ownedBy(0) + "/u"
	ctx := waittest.Context(t, testWait)
	d, err := owner.Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: "guarded", RequestId: "r", InputTokens: 100, MaxOutputTokens: new(int64(400))})
	if err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
		t.Fatalf("Reserve() = %v, %v", d, err)
	}
	owner.listener.setFrozen(true)
	withdrawal := itemOf(&pb.CancelRequest{Key: key, RequestId: "r"})
	withdrawal.Attempt = 7
	b, err := asked.Batch(waittest.Context(t, time.Second), &pb.BatchRequest{Items: []*pb.Item{withdrawal}})
	if err != nil || b.Results[0].GetSettlement().GetRoute() != pb.Route_ROUTE_FALLBACK {
		t.Fatalf("Batch() = %v, %v, want an answer in fallback", b, err)
	}
	owner.listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	if used := owner.used(key, "guarded", "concurrent"); used != 1 {
		t.Errorf("the owner has %d slots taken, want 1", used)
	}
}
