// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// runHeld is like run, with one node and a reservation of 800 output tokens.
func runHeld(t *testing.T, test func(scene, *fakeNode, *client.Reservation)) {
	t.Helper()
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", InputTokens: 900, MaxOutputTokens: new(int64(800)), RequestID: "r1"})
		if err != nil {
			t.Fatalf("Reserve() = %v", err)
		}
		test(t, t.nodes["a"], r)
	})
}

// wantSent fails unless the node got exactly these requests after the reserve.
func wantSent(t scene, n *fakeNode, want ...proto.Message) {
	t.Helper()
	got := n.sent()[1:]
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("node was sent (-want +got):\n%s", diff)
	}
}

func settle(output int64, final bool) *pb.SettleRequest {
	return &pb.SettleRequest{Key: "acme/alice", RequestId: "r1", OutputTokens: new(output), Final: new(final)}
}

func TestSettle(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		if got := r.Granted(); got != 800 {
			t.Errorf("Granted() = %d, want 800", got)
		}
		for range 2 { // the same usage again is harmless
			s, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))})
			if err != nil || s.Status != client.Settled {
				t.Errorf("Settle(312) = %q, %v, want settled", s.Status, err)
			}
		}
		wantSent(t, n, settle(312, true), settle(312, true))
	})
}

func TestSettleRetries(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		n.behave(func(_ context.Context, nth int) error {
			if nth < 4 {
				return lostAnswer{status.Error(codes.Unavailable, "lost")}
			}
			return nil
		})
		if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))}); err != nil {
			t.Errorf("Settle(312) = %v, want nil", err)
		}
		wantSent(t, n, settle(312, true), settle(312, true), settle(312, true))
	})
}

func TestProgress(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		for _, output := range []int64{100, 200} {
			s, err := r.Progress(t.Context(), client.Usage{OutputTokens: new(output)})
			if err != nil || s.Status != client.Held {
				t.Errorf("Progress(%d) = %q, %v, want held", output, s.Status, err)
			}
		}
		wantSent(t, n, settle(100, false), settle(200, false))
	})
}

func TestCancel(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		for range 2 { // the second one has nothing left to do
			if err := r.Cancel(t.Context()); err != nil {
				t.Errorf("Cancel() = %v, want nil", err)
			}
		}
		wantSent(t, n, &pb.CancelRequest{Key: "acme/alice", RequestId: "r1"})
	})
}

func TestFailedCancelMayBeRepeated(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		n.behave(always(codes.Internal))
		if err := r.Cancel(t.Context()); status.Code(err) != codes.Internal {
			t.Errorf("Cancel() = %v, want Internal", err)
		}
		n.behave(nil)
		if err := r.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel() again = %v, want nil", err)
		}
		cancel := &pb.CancelRequest{Key: "acme/alice", RequestId: "r1"}
		wantSent(t, n, cancel, cancel)
	})
}

func TestCancelAfterSettleDoesNothing(t *testing.T) {
	for name, behave := range map[string]func(context.Context, int) error{
		"settled":     nil,
		"refused":     always(codes.InvalidArgument),
		"unreachable": always(codes.Internal),
	} {
		t.Run(name, func(t *testing.T) {
			runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
				n.behave(behave)
				if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))}); (err == nil) != (behave == nil) {
					t.Errorf("Settle() = %v", err)
				}
				if err := r.Cancel(t.Context()); err != nil {
					t.Errorf("Cancel() = %v, want nil", err)
				}
				wantSent(t, n, settle(312, true))
			})
		})
	}
}

func TestCancelAfterProgressSettles(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		if _, err := r.Progress(t.Context(), client.Usage{OutputTokens: new(int64(100))}); err != nil {
			t.Errorf("Progress() = %v", err)
		}
		for range 2 {
			if err := r.Cancel(t.Context()); err != nil {
				t.Errorf("Cancel() = %v, want nil", err)
			}
		}
		wantSent(t, n, settle(100, false), &pb.SettleRequest{Key: "acme/alice", RequestId: "r1", Final: new(true)})
	})
}

func TestReservationMadeElsewhere(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, _ *client.Reservation) {
		elsewhere := t.c.Reservation("acme/alice", "r1")
		if elsewhere.Denied() {
			t.Error("Denied() = true, want false")
		}
		if _, err := elsewhere.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))}); err != nil {
			t.Errorf("Settle() = %v, want nil", err)
		}
		if err := t.c.Reservation("acme/alice", "r1").Cancel(t.Context()); err != nil {
			t.Errorf("Cancel() = %v, want nil", err)
		}
		wantSent(t, n, settle(312, true), &pb.CancelRequest{Key: "acme/alice", RequestId: "r1"})
	})
}

func TestDeniedReservation(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		t.reserve = denyTokens
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", InputTokens: 900})
		if err != nil {
			t.Fatalf("Reserve() = %v, want a denial, which is no error", err)
		}
		if !r.Denied() || r.Allowed() || r.Reason != client.LimitExceeded || r.RetryAfter != 12*time.Second || r.Granted() != 0 {
			t.Errorf("Reserve() = %+v, want denied, limit_exceeded, retry in 12s, granted 0", r.Decision)
		}
		if r.Binding.Name != "tokens" {
			t.Errorf("Binding = %q, want tokens", r.Binding.Name)
		}
		if err := r.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel() = %v, want nil", err)
		}
		if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(1))}); !errors.Is(err, client.ErrUnknownReservation) {
			t.Errorf("Settle() = %v, want ErrUnknownReservation", err)
		}
		if _, err := r.Progress(t.Context(), client.Usage{OutputTokens: new(int64(1))}); !errors.Is(err, client.ErrUnknownReservation) {
			t.Errorf("Progress() = %v, want ErrUnknownReservation", err)
		}
		if sent := len(t.nodes["a"].sent()); sent != 1 {
			t.Errorf("node was sent %d messages, want the reserve alone", sent)
		}
	})
}

// The id of a reservation made in fallback differs from the one sent.
func TestSettleUsesTheIDOfTheAnswer(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		t.reserve = func(r *pb.ReserveRequest) *pb.Decision {
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: "node-2." + r.GetRequestId(), Route: pb.Route_ROUTE_FALLBACK}
		}
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", RequestID: "r1"})
		if err != nil || r.RequestID != "node-2.r1" {
			t.Fatalf("Reserve(r1) = %q, %v, want the id node-2.r1", r.RequestID, err)
		}
		if s, err := r.Settle(t.Context(), client.Usage{}); err != nil || s.RequestID != "node-2.r1" {
			t.Errorf("Settle() = %q, %v, want the id node-2.r1", s.RequestID, err)
		}
	})
}
