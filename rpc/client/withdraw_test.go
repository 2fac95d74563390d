// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestWithdraw: the owner does not answer a call in time, and another node does. If
// that denied it, the attempt is withdrawn at the owner; if it admitted it, or if the
// owner itself denied it, it is not.
func TestWithdraw(t *testing.T) {
	for _, tt := range []struct {
		name         string
		late, denied bool
		check        bool
		want         bool
	}{
		{name: "late, denied", late: true, denied: true, want: true},
		{name: "late, admitted", late: true},
		{name: "denied in time", denied: true},
		{name: "check, late, denied", late: true, denied: true, check: true, want: true},
		{name: "check, late, admitted", late: true, check: true},
		{name: "check, denied in time", denied: true, check: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runRing(t, client.Options{Timeout: 3 * time.Second}, []string{"a", "b"}, func(t scene) {
				if tt.denied {
					deny := func(id string) *pb.Decision { return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED, RequestId: id} }
					t.reserve = func(r *pb.ReserveRequest) *pb.Decision { return deny(r.GetRequestId()) }
					t.check = func(r *pb.CheckRequest) *pb.Decision { return deny(r.GetRequestId()) }
				}
				var mu sync.Mutex
				var reserved, cancelled []*pb.Item
				t.nodes["a"].batches(func(b *pb.Batch, _ *pb.Answers) {
					mu.Lock()
					first := len(reserved)+len(cancelled) == 0
					for _, item := range b.GetItems() {
						if item.GetCancel() != nil {
							cancelled = append(cancelled, item)
						} else {
							reserved = append(reserved, item)
						}
					}
					mu.Unlock()
					if first && tt.late {
						time.Sleep(2 * time.Second)
					}
				})
				key := keyOf(t.ring(1, "a", "b"), "a")
				if tt.check {
					d, err := t.c.Check(t.Context(), client.Call{Key: key, RequestID: "r", InputTokens: 7})
					if err != nil || d.Denied() != tt.denied {
						t.Fatalf("Check() = %+v, %v", d, err)
					}
				} else {
					r, err := t.c.Reserve(t.Context(), client.Estimate{Key: key, RequestID: "r"})
					if err != nil || r.Denied() != tt.denied {
						t.Fatalf("Reserve() = %+v, %v", r, err)
					}
				}
				time.Sleep(20 * time.Second)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if len(reserved) != 1 || len(cancelled) > 0 != tt.want {
					t.Fatalf("the owner had %d questions and %d withdrawals, want 1 and some: %v", len(reserved), len(cancelled), tt.want)
				}
				if reserved[0].GetAttempt() == 0 {
					t.Error("the question has no number")
				}
				for _, c := range cancelled { // it may be told twice
					q := reserved[0]
					if c.GetAttempt() != q.GetAttempt() || c.GetCancel().GetKey() != key || c.GetCancel().GetRequestId() != "r" {
						t.Errorf("withdrawal %v of %v", c, q)
					}
					if !proto.Equal(c.GetWithdrawn(), q.GetCheck()) {
						t.Errorf("withdrawn = %v, want %v", c.GetWithdrawn(), q.GetCheck())
					}
				}
			})
		})
	}
}

// TestWithdrawUnary: also an attempt that was sent alone, to a node that did not answer,
// is withdrawn at the owner if another node denies the call.
func TestWithdrawUnary(t *testing.T) {
	for _, verb := range []string{"check", "reserve"} {
		t.Run(verb, func(t *testing.T) {
			runRing(t, client.Options{Timeout: 3 * time.Second}, []string{"a", "b"}, func(t scene) {
				t.reserve = func(*pb.ReserveRequest) *pb.Decision { return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED} }
				t.check = func(*pb.CheckRequest) *pb.Decision { return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED} }
				var mu sync.Mutex
				var batched, withdrawn []uint64
				t.nodes["a"].batches(func(b *pb.Batch, _ *pb.Answers) {
					mu.Lock()
					first := len(batched) == 0
					for _, item := range b.GetItems() {
						if item.GetCancel() != nil {
							withdrawn = append(withdrawn, item.GetAttempt())
						} else {
							batched = append(batched, item.GetAttempt())
						}
					}
					mu.Unlock()
					if first {
						time.Sleep(2 * time.Second)
					}
				})
				var unary []uint64
				for _, n := range t.nodes {
					n.behave(func(ctx context.Context, _ int) error {
						attempt := requestid.AttemptOf(ctx)
						if attempt == 0 { // in a batch
							return nil
						}
						mu.Lock()
						unary = append(unary, attempt)
						first := len(unary) == 1
						mu.Unlock()
						if first {
							return silent(ctx, 0)
						}
						return nil
					})
				}
				key := keyOf(t.ring(1, "a", "b"), "a")
				var denied bool
				var err error
				if verb == "check" {
					var d client.Decision
					d, err = t.c.Check(t.Context(), client.Call{Key: key})
					denied = d.Denied()
				} else {
					var r *client.Reservation
					if r, err = t.c.Reserve(t.Context(), client.Estimate{Key: key}); err == nil {
						denied = r.Denied()
					}
				}
				if err != nil || !denied {
					t.Fatalf("%s: denied = %v, %v, want a denial", verb, denied, err)
				}
				time.Sleep(20 * time.Second)
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if len(batched) != 1 || len(unary) != 2 || unary[0] == unary[1] {
					t.Fatalf("attempts in batches %v and alone %v, want one and two", batched, unary)
				}
				for attempt, want := range map[uint64]bool{batched[0]: true, unary[0]: true, unary[1]: false} {
					if slices.Contains(withdrawn, attempt) != want {
						t.Errorf("withdrawn = %v, want attempt %d in it: %v", withdrawn, attempt, want)
					}
				}
			})
		})
	}
}

// TestWithdrawMany: an owner that is starved for half a minute decides thousands of calls
// whose answers do not arrive, and takes nothing back meanwhile. As soon as it can, it
// takes back all of them: Flush waits for that.
func TestWithdrawMany(t *testing.T) {
	const waves, wave = 6, 1000
	runRing(t, client.Options{Timeout: 3 * time.Second}, []string{"a", "b"}, func(t scene) {
		t.reserve = func(*pb.ReserveRequest) *pb.Decision { return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED} }
		var mu sync.Mutex
		starved := true
		held := map[string]bool{}
		t.nodes["a"].batches(func(b *pb.Batch, out *pb.Answers) {
			mu.Lock()
			defer mu.Unlock()
			for i, item := range b.GetItems() {
				switch {
				case item.GetReserve() != nil:
					held[item.GetReserve().GetRequestId()] = true
					out.Results[i] = &pb.Result{Result: &pb.Result_Redirect{Redirect: &pb.Redirect{}}}
				case starved:
					out.Results[i] = itemError(codes.Unavailable)
				default:
					delete(held, item.GetCancel().GetRequestId())
				}
			}
		})
		key := keyOf(t.ring(1, "a", "b"), "a")
		for range waves {
			var calls sync.WaitGroup
			for range wave {
				calls.Go(func() {
					if r, err := t.c.Reserve(t.Context(), client.Estimate{Key: key}); err != nil || r.Allowed() {
						t.Errorf("Reserve() = %+v, %v, want a denial", r, err)
					}
				})
			}
			calls.Wait()
			time.Sleep(3 * time.Second)
		}
		mu.Lock()
		starved = false
		charged := len(held)
		mu.Unlock()
		if s := t.c.Status(); charged != waves*wave || s.PendingWithdrawals != charged || s.LostWithdrawals != 0 {
			t.Errorf("the owner holds %d reservations, and the client has %d withdrawals and lost %d, want %d and none lost",
				charged, s.PendingWithdrawals, s.LostWithdrawals, waves*wave)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := t.c.Flush(ctx); err != nil {
			t.Errorf("Flush() = %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(held) != 0 {
			t.Errorf("%d of %d reservations are left behind", len(held), charged)
		}
	})
}
