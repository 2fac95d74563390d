// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// lendReserves lends a slice with the answer to a reserve. It returns the slice.
func (n *node) lendReserves(t *testing.T, q *pb.ReserveRequest) *pb.Slice {
	t.Helper()
	calls := []call.Call{call.Of(q)}
	results := n.NewResults(1)
	defer results.Release()
	n.Decide(calls, results)
	if _, _, ok := results.Lendable(0); !ok {
		t.Fatalf("Lendable() of %v = false", results.Get(0))
	}
	loan := limiter.Loan{ID: requestid.Slice("node2", 1), Share: 500, Holders: 1}
	if !n.Lend(results, 0, &loan) {
		t.Fatalf("Lend() of %v = false", results.Get(0))
	}
	return results.Get(0).GetSlice()
}

// keptReservation is a reservation of a slice of acme/alice.
func keptReservation(id string) *pb.KeptReservation {
	return &pb.KeptReservation{
		Request: &pb.ReserveRequest{Key: "acme/alice", Tier: "lent", RequestId: id, InputTokens: 10, MaxOutputTokens: new(int64(5)), Costs: map[string]int64{"images": 1}},
		Costs:   []int64{1}, GrantedOutputTokens: 5, LeftNanos: int64(time.Second),
	}
}

// TestLendReserves: a slice for reserves comes with a tariff that says what they cost, and
// what is open when it is returned can be settled at the owner.
func TestLendReserves(t *testing.T) {
	n := newNode(t)
	first := &pb.ReserveRequest{Key: "acme/alice", Tier: "lent", RequestId: "first", MaxOutputTokens: new(int64(5))}
	s := n.lendReserves(t, first)
	tariff, err := limiter.ReadTariff(s.GetTariff())
	if err != nil || tariff.Limits() != len(s.GetAmounts()) || tariff.Tier() != "lent" {
		t.Fatalf("ReadTariff() of %v = %v, %v", s, tariff, err)
	}
	costs := []int64{0}
	if granted, err := tariff.Reserve(&limiter.Request{Requests: 3, OutputTokens: 7}, costs); err != nil || granted != 7 || costs[0] != 3 {
		t.Errorf("Tariff.Reserve() = %d, %v with costs %v", granted, err, costs)
	}
	kept, again := keptReservation("kept"), keptReservation("again")
	back := returnItem(&pb.SliceReturn{Key: "acme/alice", Slice: s.GetId(), Spent: []int64{3}, Calls: 5, Kept: []*pb.KeptReservation{kept, again}})
	for range 2 { // the second time nothing happens
		if got := answers(n.Service, back)[0]; got.GetSliceEnded() == nil {
			t.Fatalf("return = %v", got)
		}
	}
	used := func() int64 {
		l := answers(n.Service, item(&pb.PeekRequest{Key: "acme/alice", Tier: "lent"}))[0].GetLimits().GetLimits()[0]
		return l.Capacity - l.Remaining
	}
	if got := used(); got != 1+3+2 {
		t.Errorf("%d used, want that of the first reserve, 3 calls that were settled and 2 that are held", got)
	}
	if d := answers(n.Service, item(again.GetRequest()))[0].GetDecision(); !d.GetReplayed() || d.GetGrantedOutputTokens() != 5 {
		t.Errorf("reserve again = %v, want its answer", d)
	}
	if got := n.count("bucketring_kept_reservations_total"); got != 2 {
		t.Errorf("%v kept reservations counted, want 2", got)
	}
	settled := answers(n.Service, item(&pb.SettleRequest{Key: "acme/alice", RequestId: "kept", OutputTokens: new(int64(3))}))[0].GetSettlement()
	cancelled := answers(n.Service, item(&pb.CancelRequest{Key: "acme/alice", RequestId: "again"}))[0].GetSettlement()
	if settled.GetStatus() != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || cancelled.GetStatus() != pb.ReservationStatus_RESERVATION_STATUS_CANCELLED {
		t.Errorf("settle = %v, cancel = %v", settled, cancelled)
	}
	if got := used(); got != 1+3+1 {
		t.Errorf("%d used after a settle and a cancel, want 5", got)
	}
}

// TestNotLendable: nothing is lent with the answer to a reserve that was not decided now, in
// full, by the limits.
func TestNotLendable(t *testing.T) {
	n := newNode(t)
	first := call.Of(&pb.ReserveRequest{Key: "acme/alice", Tier: "lent", RequestId: "first", MaxOutputTokens: new(int64(5))})
	replayed, forced := first, call.Of(&pb.ReserveRequest{Key: "acme/alice", Tier: "lent", RequestId: "forced", MaxOutputTokens: new(int64(5))})
	forced.Replay = true
	degraded := call.Of(&pb.ReserveRequest{Key: "k", Tier: "shrink", RequestId: "a", MaxOutputTokens: new(int64(5000))})
	denied := call.Of(&pb.ReserveRequest{Key: "acme/alice", Tier: "lent", RequestId: "b", Requests: new(int64(5000))})
	settle := call.Of(&pb.SettleRequest{Key: "acme/alice", RequestId: "first", OutputTokens: new(int64(1))})
	calls := []call.Call{first, replayed, forced, degraded, denied, settle}
	results := n.NewResults(len(calls))
	defer results.Release()
	n.Decide(calls, results)
	for i := range calls {
		if _, _, ok := results.Lendable(i); ok != (i == 0) {
			t.Errorf("Lendable() of %v = %v, want %v", results.Get(i), ok, i == 0)
		}
	}
}

// TestReturnOfInvalidReservations: what cannot have been reserved is an error that names its
// field, whether the slice is known or not, and changes nothing.
func TestReturnOfInvalidReservations(t *testing.T) {
	n := newNode(t)
	s := n.lendReserves(t, &pb.ReserveRequest{Key: "acme/alice", Tier: "lent", RequestId: "first", MaxOutputTokens: new(int64(5))})
	before := n.engine.Stats()
	for what, tt := range map[string]struct {
		change func(*pb.KeptReservation)
		field  string
		value  string
	}{
		"no request":        {func(k *pb.KeptReservation) { k.Request = nil }, "kept.request.key", `""`},
		"another key":       {func(k *pb.KeptReservation) { k.Request.Key = "acme/bob" }, "kept.request.key", `"acme/bob"`},
		"no id":             {func(k *pb.KeptReservation) { k.Request.RequestId = "" }, "kept.request.request_id", `""`},
		"id of a slice":     {func(k *pb.KeptReservation) { k.Request.RequestId = "slice:a:1" }, "kept.request.request_id", `"slice:a:1"`},
		"id in fallback":    {func(k *pb.KeptReservation) { k.Request.RequestId = "fallback:a:1" }, "kept.request.request_id", `"fallback:a:1"`},
		"long id":           {func(k *pb.KeptReservation) { k.Request.RequestId = strings.Repeat("x", maxIDBytes+1) }, "kept.request.request_id", "xxx"},
		"negative input":    {func(k *pb.KeptReservation) { k.Request.InputTokens = -1 }, "kept.request.input_tokens", "-1"},
		"ttl":               {func(k *pb.KeptReservation) { k.Request.TtlSeconds = new(int64(maxTTLSeconds + 1)) }, "kept.request.ttl_seconds", "3601"},
		"built-in cost":     {func(k *pb.KeptReservation) { k.Request.Costs["tokens"] = 1 }, "kept.request.costs.tokens", "1"},
		"negative amount":   {func(k *pb.KeptReservation) { k.Costs[0] = -1 }, "kept.costs", "-1"},
		"too large a cost":  {func(k *pb.KeptReservation) { k.Costs[0] = 1 << 60 }, "kept.costs", "1152921504606846976"},
		"more than lent":    {func(k *pb.KeptReservation) { k.Costs[0] = s.GetAmounts()[0] }, "kept.costs", ""},
		"too many costs":    {func(k *pb.KeptReservation) { k.Costs = []int64{1, 1} }, "kept.costs", "2"},
		"negative grant":    {func(k *pb.KeptReservation) { k.GrantedOutputTokens = -1 }, "kept.granted_output_tokens", "-1"},
		"too large a grant": {func(k *pb.KeptReservation) { k.GrantedOutputTokens = 1 << 60 }, "kept.granted_output_tokens", "1152921504606846976"},
	} {
		k := keptReservation("bad")
		tt.change(k)
		r := &pb.SliceReturn{Key: "acme/alice", Slice: s.GetId(), Spent: []int64{1}, Kept: []*pb.KeptReservation{keptReservation("good"), k}}
		got := answers(n.Service, returnItem(r))[0].GetError()
		if got.GetField() != tt.field || !strings.Contains(got.GetMessage(), tt.value) {
			t.Errorf("%s: error = %v, want one of field %q with value %s", what, got, tt.field, tt.value)
		}
	}
	many := &pb.SliceReturn{Key: "acme/alice", Slice: s.GetId(), Spent: []int64{1}, Kept: slices.Repeat([]*pb.KeptReservation{keptReservation("a")}, limiter.MaxKept+1)}
	if got := answers(n.Service, returnItem(many))[0].GetError(); got.GetField() != "kept" {
		t.Errorf("too many: error = %v, want one of field kept", got)
	}
	if after := n.engine.Stats(); after.Slices != 1 || after.Reservations != before.Reservations || after.IDs != before.IDs || after.Kept != 0 {
		t.Errorf("Stats() = %+v, want %+v", after, before)
	}
	if got := n.count("bucketring_invalid_requests_total"); got != 16 {
		t.Errorf("%v invalid requests counted, want 16", got)
	}
}

// TestKeptFitsAMessage: a return with as many reservations as it may have fits into a message,
// if they have 400 bytes on average.
func TestKeptFitsAMessage(t *testing.T) {
	k := keptReservation(strings.Repeat("i", 64))
	k.Request.Key, k.Request.Model = strings.Repeat("k", 128), strings.Repeat("m", 128)
	r := &pb.SliceReturn{Key: k.Request.Key, Slice: "slice:a:1", Kept: slices.Repeat([]*pb.KeptReservation{k}, limiter.MaxKept)}
	if n := proto.Size(returnItem(r)); n > maxMessage || n < maxMessage/2 {
		t.Errorf("a return has %d bytes, want at most the %d of a message", n, maxMessage)
	}
}
