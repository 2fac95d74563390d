// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestAllocations bounds what the service adds to deciding, which allocates
// nothing: the answer, its limits and, if the caller brought none, the request
// id. A settlement lists its limits apart.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	n := newNode(t)
	n.newID = randomID
	ctx := context.Background()
	check := &pb.CheckRequest{Key: "acme/alice", InputTokens: 1}
	settle := &pb.SettleRequest{Key: "k", RequestId: "a", OutputTokens: new(int64(1)), Final: new(false)}
	if _, err := n.Reserve(ctx, &pb.ReserveRequest{Key: "k", Tier: "shrink", RequestId: "a", MaxOutputTokens: new(int64(10))}); err != nil {
		t.Fatal(err)
	}
	batch := &pb.CheckBatchRequest{}
	for range 64 {
		batch.Items = append(batch.Items, check)
	}
	for _, tt := range []struct {
		name string
		most float64
		call func()
	}{
		{"Check", 3, func() { _, _ = n.Check(ctx, check) }},
		{"Settle", 3, func() { _, _ = n.Settle(ctx, settle) }},
		{"CheckBatch of 64", 64*2 + 3, func() { _, _ = n.CheckBatch(ctx, batch) }},
	} {
		for range 20 { // denied from here on: nothing is remembered
			tt.call()
		}
		got := testing.AllocsPerRun(200, tt.call)
		t.Logf("%s: %v allocations", tt.name, got)
		if got > tt.most {
			t.Errorf("%s allocates %v times, want at most %v", tt.name, got, tt.most)
		}
	}
}

// TestTogether: however many ask at once, no more than the limit is admitted.
func TestTogether(t *testing.T) {
	n := newNode(t)
	var admitted atomic.Int64
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for j := range 50 {
				d, err := n.Check(t.Context(), &pb.CheckRequest{Key: "acme/alice", Tier: []string{"", "free"}[j%2], InputTokens: 1})
				if err != nil {
					t.Errorf("Check() = %v", err)
					return
				}
				if d.Outcome == pb.Outcome_OUTCOME_ALLOWED {
					admitted.Add(1)
				}
				if _, err := n.CheckBatch(t.Context(), &pb.CheckBatchRequest{Items: []*pb.CheckRequest{
					{Key: fmt.Sprint("other", i)}, {Key: ""},
				}}); err != nil {
					t.Errorf("CheckBatch() = %v", err)
					return
				}
			}
		})
	}
	callers.Wait()
	if got := admitted.Load(); got != 10 {
		t.Errorf("admitted = %d, want 10", got)
	}
}
