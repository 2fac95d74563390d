// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"math"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

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
	batch := &pb.BatchRequest{}
	for range 64 {
		batch.Items = append(batch.Items, item(check))
	}
	for _, tt := range []struct {
		name string
		most float64
		call func()
	}{
		{"Check", 3, func() { _, _ = n.Check(ctx, check) }},
		{"Settle", 3, func() { _, _ = n.Settle(ctx, settle) }},
		{"Batch of 64", 64*2 + 3, func() { _, _ = n.Batch(ctx, batch) }},
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

// TestAnswerAllocations: the answers of a batch take as many pieces of memory with 4
// items as with 512, one of them the list, but for limits, of which 96 are made at
// once. Items take none. In
// bytes it takes nothing at all.
func TestAnswerAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pools
	const limits = 4                                 // of a call
	s, clock := benchNode(t)
	var all []*pb.Item
	for i := range MaxBatchItems {
		all = append(all, benchItem(i))
	}
	mixed := func(n int) []*pb.Item {
		items := make([]*pb.Item, n)
		for i := range items {
			check := all[i].GetCheck()
			switch i % 4 {
			case 0:
				items[i] = all[i]
			case 1:
				items[i] = item(&pb.ReserveRequest{Key: check.Key, RequestId: check.RequestId, MaxOutputTokens: new(int64(9))})
			case 2:
				items[i] = item(&pb.SettleRequest{Key: items[i-1].GetReserve().Key, RequestId: items[i-1].GetReserve().RequestId, Final: new(false)})
			case 3:
				items[i] = item(&pb.PeekRequest{Key: check.Key})
			}
		}
		return items
	}
	for _, tt := range []struct {
		name  string
		items []*pb.Item
		most  float64 // but for limits
	}{
		{"1 check", all[:1], 2},
		{"16 checks", all[:16], 2},
		{"64 checks", all[:64], 2},
		{"256 checks", all[:256], 2},
		{"512 checks", all, 2},
		{"4 of all kinds", mixed(4), 4},
		{"512 of all kinds", mixed(512), 4},
	} {
		calls := callsOf(tt.items...)
		var all []*pb.Result
		answer := func() {
			clock.forget()
			results := s.Do(t.Context(), calls)
			all = results.All()
			results.Release()
		}
		for range 40 { // until the engine forgets as much as it learns
			answer()
		}
		for i, r := range all {
			if r.GetError() != nil {
				t.Fatalf("%s: item %d: %v", tt.name, i, r)
			}
		}
		var wire []byte
		if got := testing.AllocsPerRun(100, func() {
			clock.forget()
			results := s.Do(t.Context(), calls)
			wire = results.Append(wire[:0])
			results.Release()
		}); got != 0 {
			t.Errorf("%s, in bytes: %v allocations, want none", tt.name, got)
		}
		var definitions Definitions
		if got := testing.AllocsPerRun(100, func() {
			clock.forget()
			results := s.Do(t.Context(), calls)
			wire = results.AppendDefined(wire[:0], &definitions)
			results.Release()
		}); got != 0 {
			t.Errorf("%s, in bytes by definitions: %v allocations, want none", tt.name, got)
		}
		got := testing.AllocsPerRun(100, answer)
		most := tt.most + 2*math.Ceil(float64(len(tt.items)*limits)/spaceAtOnce)
		t.Logf("%s: %v allocations", tt.name, got)
		if got > most {
			t.Errorf("%s: %v allocations, want at most %v", tt.name, got, most)
		}
	}
}

func TestValidateAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	n := newNode(t)
	for _, i := range []*pb.Item{
		benchItem(1),
		item(&pb.CheckRequest{Key: "k", Costs: map[string]int64{"a": 1, "b": 2}}),
		item(&pb.ReserveRequest{Key: "k"}),
		item(&pb.SettleRequest{Key: "k", RequestId: "r", OutputTokens: new(int64(1))}),
		item(&pb.CancelRequest{Key: "k", RequestId: "r"}),
		item(&pb.PeekRequest{Key: "k"}),
	} {
		c := callOf(i)
		if got := testing.AllocsPerRun(100, func() { _ = n.Validate(c) }); got != 0 {
			t.Errorf("Validate(%v) allocates %v times, want 0", i, got)
		}
	}
}

// opaque is a codec of the client, to which messages are bytes.
type opaque struct{}

func (opaque) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (opaque) Unmarshal(data mem.BufferSlice, v any) error {
	to := v.(*[]byte)
	*to = (*to)[:data.Len()]
	data.CopyTo(*to)
	return nil
}
func (opaque) Name() string { return "proto" }

// echoOf returns a server whose method Check answers any bytes with so many.
func echoOf(bytes int) *grpc.Server {
	s, payload := grpc.NewServer(), make([]byte, bytes)
	desc := grpc.ServiceDesc{ServiceName: pb.RateLimiter_ServiceDesc.ServiceName, HandlerType: (*any)(nil)}
	desc.Methods = []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return wrapperspb.Bytes(payload), nil
	}}}
	s.RegisterService(&desc, nil)
	return s
}

// TestUnaryAllocations: a call over gRPC takes at most two allocations more than a server of
// grpc-go that echoes the same bytes. Both are counted here, with the client's.
func TestUnaryAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pools
	n := newNode(t)
	n.newID = randomID
	ctx := t.Context()
	if _, err := n.Reserve(ctx, &pb.ReserveRequest{Key: "k", Tier: "shrink", RequestId: "a", MaxOutputTokens: new(int64(10))}); err != nil {
		t.Fatal(err)
	}
	batch := &pb.BatchRequest{}
	for i := range 256 {
		batch.Items = append(batch.Items, item(&pb.CheckRequest{Key: "acme/alice", Model: "m", Requests: new(int64(11)), RequestId: fmt.Sprintf("%016d", i)}))
	}
	for _, tt := range []struct {
		method  string
		request proto.Message
		most    float64
	}{
		{"Check", &pb.CheckRequest{Key: "acme/alice", Model: "m", InputTokens: 11, RequestId: "0123456789abcdef"}, 2},
		{"Check", &pb.CheckRequest{Key: "acme/alice", Model: "m", Requests: new(int64(11))}, 2}, // an id and the number
		{"Reserve", &pb.ReserveRequest{Key: "k", Tier: "shrink", RequestId: "a", MaxOutputTokens: new(int64(10))}, 2},
		{"Settle", &pb.SettleRequest{Key: "k", RequestId: "a", OutputTokens: new(int64(1)), Final: new(false)}, 2},
		{"Peek", &pb.PeekRequest{Key: "acme/alice", Model: "m"}, 2},
		{"Batch", batch, 2*256 + 16}, // the texts and the number of each item; items are made 64 at once
	} {
		request, err := proto.Marshal(tt.request)
		if err != nil {
			t.Fatal(err)
		}
		cost := func(s *grpc.Server, method string, request []byte) (answered int, allocations float64) {
			conn, answer := connect(t, s), make([]byte, 0, 1<<20)
			call := func() {
				if err := conn.Invoke(ctx, "/"+pb.RateLimiter_ServiceDesc.ServiceName+"/"+method, &request, &answer, grpc.ForceCodecV2(opaque{})); err != nil {
					t.Error(err)
				}
			}
			for range 50 {
				call()
			}
			return len(answer), testing.AllocsPerRun(300, call) // rounded down
		}
		answered, ours := cost(NewGRPC(n, GRPCOptions{Admission: NewAdmission(nil)}), tt.method, request)
		wrapped, err := proto.Marshal(wrapperspb.Bytes(request))
		if err != nil {
			t.Fatal(err)
		}
		echoed, bare := cost(echoOf(answered), "Echo", wrapped)
		if echoed < answered || answered == 0 {
			t.Fatalf("the echo has %d bytes, want about %d", echoed, answered)
		}
		t.Logf("%s: %v allocations, and %v of an echo of its %d bytes", tt.method, ours, bare, answered)
		if ours-bare > tt.most {
			t.Errorf("%s takes %v allocations more than an echo of its bytes, want at most %v", tt.method, ours-bare, tt.most)
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
				for _, r := range answers(n.Service,
					item(&pb.CheckRequest{Key: "acme/alice", InputTokens: 1}),
					item(&pb.PeekRequest{Key: "acme/alice"}),
				) {
					if r.GetDecision().GetOutcome() == pb.Outcome_OUTCOME_ALLOWED {
						admitted.Add(1)
					}
				}
				if _, err := n.Batch(t.Context(), &pb.BatchRequest{Items: []*pb.Item{
					item(&pb.CheckRequest{Key: fmt.Sprint("other", i)}), item(&pb.CheckRequest{Key: ""}),
				}}); err != nil {
					t.Errorf("Batch() = %v", err)
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
