// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/pb"
)

// used returns what is used of each limit, in the order of the policy.
func (n *node) used(t *testing.T, key string) (used [4]int64) {
	t.Helper()
	p, err := n.Peek(t.Context(), &pb.PeekRequest{Key: key})
	if err != nil || len(p.Limits) != len(used) {
		t.Fatalf("Peek(%s) = %v, %v", key, p, err)
	}
	for i, l := range p.Limits {
		used[i] = l.Capacity - l.Remaining + l.Debt
	}
	return used
}

// TestReassert: a settle or a progress that brings its reservation along is charged as if
// the reservation had never been lost: once, and beyond the limits.
func TestReassert(t *testing.T) {
	held := func(key string) *pb.ReserveRequest {
		return &pb.ReserveRequest{Key: key, RequestId: "r", InputTokens: 6000, MaxOutputTokens: new(int64(3000)), TtlSeconds: new(int64(60))}
	}
	usage := func(key string, output int64, final bool) *pb.SettleRequest {
		return &pb.SettleRequest{Key: key, RequestId: "r", OutputTokens: &output, Final: &final, Reservation: held(key)}
	}
	for _, tt := range []struct {
		name    string
		prepare func(n *node, key string) error
		calls   func(key string) []*pb.SettleRequest
		// requests, tokens, spend and slots used after the calls
		want       [4]int64
		reasserted float64
	}{
		{"lost", nil, func(k string) []*pb.SettleRequest { return []*pb.SettleRequest{usage(k, 100, true)} }, [4]int64{1, 6100, 6300, 0}, 1},
		{"lost, and settled twice", nil, func(k string) []*pb.SettleRequest {
			return []*pb.SettleRequest{usage(k, 100, true), usage(k, 100, true)}
		}, [4]int64{1, 6100, 6300, 0}, 1},
		{"lost, and runs on", nil, func(k string) []*pb.SettleRequest { return []*pb.SettleRequest{usage(k, 50, false)} }, [4]int64{1, 9000, 15_000, 1}, 1},
		{"lost, runs on and ends", nil, func(k string) []*pb.SettleRequest {
			return []*pb.SettleRequest{usage(k, 50, false), usage(k, 100, true)}
		}, [4]int64{1, 6100, 6300, 0}, 1},
		{
			"known", func(n *node, k string) error { _, err := n.Reserve(t.Context(), held(k)); return err },
			func(k string) []*pb.SettleRequest { return []*pb.SettleRequest{usage(k, 100, true)} },
			[4]int64{1, 6100, 6300, 0},
			0,
		},
		{"limits are used up", func(n *node, k string) error {
			_, err := n.Check(t.Context(), &pb.CheckRequest{Key: k, Requests: new(int64(10)), InputTokens: 8000})
			return err
		}, func(k string) []*pb.SettleRequest { return []*pb.SettleRequest{usage(k, 100, true)} }, [4]int64{11, 14_100, 14_300, 0}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			if tt.prepare != nil {
				if err := tt.prepare(n, "k"); err != nil {
					t.Fatal(err)
				}
			}
			for _, q := range tt.calls("k") {
				if s, err := n.Settle(t.Context(), q); err != nil || len(s.Limits) != 4 {
					t.Fatalf("Settle(%v) = %v, %v", q, s, err)
				}
			}
			if got := n.used(t, "k"); got != tt.want {
				t.Errorf("used = %v, want %v", got, tt.want)
			}
			if got := valuesOf(t, n.registry, "bucketring_reasserted_reservations_total")[""]; got != tt.reasserted {
				t.Errorf("reasserted = %v, want %v", got, tt.reasserted)
			}
		})
	}
}

// TestReassertRejects: what a settle brings along is validated, and nothing is charged
// after an error.
func TestReassertRejects(t *testing.T) {
	for _, tt := range []struct {
		field string
		held  *pb.ReserveRequest
	}{
		{"reservation.key", &pb.ReserveRequest{Key: "other"}},
		{"reservation.input_tokens", &pb.ReserveRequest{Key: "k", InputTokens: -1}},
		{"reservation.tier", &pb.ReserveRequest{Key: "k", Tier: "no such"}},
	} {
		n := newNode(t)
		_, err := n.Settle(t.Context(), &pb.SettleRequest{Key: "k", RequestId: "r", Reservation: tt.held})
		if grpcstatus.Code(err) != codes.InvalidArgument || !strings.HasPrefix(grpcstatus.Convert(err).Message(), tt.field+": ") {
			t.Errorf("Settle() with %v = %v, want InvalidArgument with %s", tt.held, err, tt.field)
		}
		if got := n.used(t, "k"); got != [4]int64{} {
			t.Errorf("used = %v after an error, want nothing", got)
		}
	}
	n := newNode(t) // a settle without the reservation, and one that was cancelled
	if _, err := n.Settle(t.Context(), &pb.SettleRequest{Key: "k", RequestId: "r"}); grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("Settle() of an unknown id = %v, want NotFound", err)
	}
	held := &pb.ReserveRequest{Key: "k", RequestId: "r"}
	if _, err := n.Reserve(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Cancel(t.Context(), &pb.CancelRequest{Key: "k", RequestId: "r"}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Settle(t.Context(), &pb.SettleRequest{Key: "k", RequestId: "r", Reservation: held}); grpcstatus.Code(err) != codes.AlreadyExists {
		t.Errorf("Settle() after a cancel = %v, want AlreadyExists", err)
	}
}

// TestReassertNotInFallback: a node that is not the owner does not make a reservation from
// a settle: the owner does, when it gets it.
func TestReassertNotInFallback(t *testing.T) {
	n := newNode(t)
	aside := limiter.New(limiter.Options{})
	p, err := policy.Parse("test.yaml", []byte(testPolicy), aside.Catalog())
	if err != nil {
		t.Fatal(err)
	}
	fallback := n.Fallback(aside, func() Policy { return p })
	q := &pb.SettleRequest{Key: "k", RequestId: "r", Reservation: &pb.ReserveRequest{Key: "k", RequestId: "r"}}
	if _, err := fallback.Settle(t.Context(), q); grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("Settle() in fallback = %v, want NotFound", err)
	}
}
