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

	batch := func(items ...*pb.Item) []*pb.Result {
		t.Helper()
		b, err := client.Batch(ctx, &pb.BatchRequest{Items: items})
		if err != nil {
			t.Fatal(err)
		}
		return b.Results
	}
	wantResults(t, batch(
		item(&pb.CheckRequest{Key: "a", InputTokens: 6_000, RequestId: "1"}),
		item(&pb.CheckRequest{Key: "b//c"}),
		item(&pb.CheckRequest{Key: "a", InputTokens: 6_000, RequestId: "2"}),
		item(&pb.CheckRequest{Key: "a", InputTokens: 1, RequestId: "1"}),
		item(&pb.CheckRequest{Key: "b", InputTokens: 1}),
	), "1 allowed", "key", "2 denied", "error 6", "made-1 allowed")
	wantResults(t, batch(
		item(&pb.ReserveRequest{Key: "c", RequestId: "1", MaxOutputTokens: new(int64(10))}),
		item(&pb.ReserveRequest{Key: "c", RequestId: "2", MaxOutputTokens: new(int64(-1))}),
		item(&pb.ReserveRequest{Key: "c", RequestId: "3", MaxOutputTokens: new(int64(10))}),
		item(&pb.ReserveRequest{Key: "c", RequestId: "4", MaxOutputTokens: new(int64(10))}),
	), "1 allowed", "max_output_tokens", "3 allowed", "4 denied")
	wantResults(t, batch(
		item(&pb.SettleRequest{Key: "c", RequestId: "1", OutputTokens: new(int64(5))}),
		item(&pb.SettleRequest{Key: "c", RequestId: "never"}),
		item(&pb.SettleRequest{Key: "c"}),
		item(&pb.CancelRequest{Key: "c", RequestId: "never"}),
		item(&pb.CancelRequest{Key: "c", RequestId: "3"}),
	), "1 settled", "error 5", "request_id", "error 5", "3 cancelled")
	// What only members may send, and an item without a call.
	wantResults(t, batch(
		item(&pb.PeekRequest{Key: ""}), item(&pb.PeekRequest{Key: "c"}),
		replay(&pb.CheckRequest{Key: "a", InputTokens: 6_000}), item(perDay(1, "a")), nil, late(&pb.CheckRequest{Key: "a"}),
	), "key", "4 limits", "replay", "call", "call", "error 4")
}

func wantResults(t *testing.T, results []*pb.Result, want ...string) {
	t.Helper()
	if len(results) != len(want) {
		t.Fatalf("batch has %d results, want %d", len(results), len(want))
	}
	for i, r := range results {
		got := brief(r)
		if r.GetError() != nil {
			got = itemError(r.GetError())
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
	b := &pb.BatchRequest{}
	for range 1025 {
		b.Items = append(b.Items, item(&pb.CheckRequest{Key: "k"}))
	}
	_, err := n.Batch(t.Context(), b)
	if grpcstatus.Code(err) != codes.InvalidArgument || Describe(err).Field != "items" {
		t.Errorf("Batch(1025 items) = %v, want an error of items", err)
	}
	if left := remaining(t, n, "k", "requests"); left != 10 {
		t.Errorf("requests left = %d, want 10", left)
	}
	b.Items = b.Items[:1024]
	if got, err := n.Batch(t.Context(), b); err != nil || len(got.Results) != 1024 {
		t.Errorf("Batch(1024 items) = %d results, %v", len(got.GetResults()), err)
	}
	if got, err := n.Batch(t.Context(), nil); err != nil || len(got.Results) != 0 {
		t.Errorf("Batch(nil) = %v, %v, want no results", got, err)
	}
}
