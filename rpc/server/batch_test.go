// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestBatch: every item is answered on its own and in its place.
func TestBatch(t *testing.T) {
	n := newNode(t)
	client := pb.NewRateLimiterClient(serve(t, n, nil))
	ctx := deadline(t)

	checked, err := client.CheckBatch(ctx, &pb.CheckBatchRequest{Items: []*pb.CheckRequest{
		{Key: "a", InputTokens: 6_000, RequestId: "1"},
		{Key: "b//c"},
		{Key: "a", InputTokens: 6_000, RequestId: "2"},
		{Key: "a", InputTokens: 1, RequestId: "1"},
		{Key: "b", InputTokens: 1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	wantDecisions(t, checked, "1 allowed", "key", "2 denied", "error 6", "made-1 allowed")

	reserved, err := client.ReserveBatch(ctx, &pb.ReserveBatchRequest{Items: []*pb.ReserveRequest{
		{Key: "c", RequestId: "1", MaxOutputTokens: new(int64(10))},
		{Key: "c", RequestId: "2", MaxOutputTokens: new(int64(-1))},
		{Key: "c", RequestId: "3", MaxOutputTokens: new(int64(10))},
		{Key: "c", RequestId: "4", MaxOutputTokens: new(int64(10))},
	}})
	if err != nil {
		t.Fatal(err)
	}
	wantDecisions(t, reserved, "1 allowed", "max_output_tokens", "3 allowed", "4 denied")

	settled, err := client.SettleBatch(ctx, &pb.SettleBatchRequest{Items: []*pb.SettleRequest{
		{Key: "c", RequestId: "1", OutputTokens: new(int64(5))},
		{Key: "c", RequestId: "never"},
		{Key: "c"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	wantSettlements(t, settled, "1 settled", "error 5", "request_id")

	cancelled, err := client.CancelBatch(ctx, &pb.CancelBatchRequest{Items: []*pb.CancelRequest{
		{Key: "c", RequestId: "never"},
		{Key: "c", RequestId: "3"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	wantSettlements(t, cancelled, "error 5", "3 cancelled")

	peeked, err := client.PeekBatch(ctx, &pb.PeekBatchRequest{Items: []*pb.PeekRequest{{Key: ""}, {Key: "c"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := peeked.Results[0].GetError().GetField(); got != "key" {
		t.Errorf("Peek() of item 0 names field %q, want key", got)
	}
	if got := len(peeked.Results[1].GetLimits().GetLimits()); got != 4 {
		t.Errorf("Peek() of item 1 has %d limits, want 4", got)
	}
}

func wantDecisions(t *testing.T, b *pb.DecisionBatch, want ...string) {
	t.Helper()
	if len(b.Results) != len(want) {
		t.Fatalf("batch has %d results, want %d", len(b.Results), len(want))
	}
	for i, r := range b.Results {
		got := itemError(r.GetError())
		if d := r.GetDecision(); d != nil {
			got = d.RequestId + map[pb.Outcome]string{
				pb.Outcome_OUTCOME_ALLOWED: " allowed", pb.Outcome_OUTCOME_DENIED: " denied",
			}[d.Outcome]
		}
		if got != want[i] {
			t.Errorf("result %d = %s (%v), want %s", i, got, r, want[i])
		}
	}
}

func wantSettlements(t *testing.T, b *pb.SettlementBatch, want ...string) {
	t.Helper()
	if len(b.Results) != len(want) {
		t.Fatalf("batch has %d results, want %d", len(b.Results), len(want))
	}
	for i, r := range b.Results {
		got := itemError(r.GetError())
		if s := r.GetSettlement(); s != nil {
			got = s.RequestId + map[pb.ReservationStatus]string{
				pb.ReservationStatus_RESERVATION_STATUS_SETTLED: " settled", pb.ReservationStatus_RESERVATION_STATUS_CANCELLED: " cancelled",
			}[s.Status]
		}
		if got != want[i] {
			t.Errorf("result %d = %s (%v), want %s", i, got, r, want[i])
		}
	}
}

func itemError(e *pb.Error) string {
	if e.GetField() != "" {
		return e.Field
	}
	return fmt.Sprint("error ", e.GetCode())
}

func TestBatchTooLarge(t *testing.T) {
	n := newNode(t)
	b := &pb.CheckBatchRequest{}
	for range 1025 {
		b.Items = append(b.Items, &pb.CheckRequest{Key: "k"})
	}
	_, err := n.CheckBatch(t.Context(), b)
	if grpcstatus.Code(err) != codes.InvalidArgument || Describe(err).Field != "items" {
		t.Errorf("CheckBatch(1025 items) = %v, want an error of items", err)
	}
	if left := remaining(t, n, "k", "requests"); left != 10 {
		t.Errorf("requests left = %d, want 10", left)
	}
	b.Items = b.Items[:1024]
	if got, err := n.CheckBatch(t.Context(), b); err != nil || len(got.Results) != 1024 {
		t.Errorf("CheckBatch(1024 items) = %d results, %v", len(got.GetResults()), err)
	}
	if got, err := n.CheckBatch(t.Context(), nil); err != nil || len(got.Results) != 0 {
		t.Errorf("CheckBatch(nil) = %v, %v, want no results", got, err)
	}
}
