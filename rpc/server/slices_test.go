// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

func returnItem(r *pb.SliceReturn) *pb.Item {
	return &pb.Item{Call: &pb.Item_SliceReturn{SliceReturn: r}}
}

// TestReturnOfSlice: what cannot be a return is an error that names its field, and one that
// is not known is acknowledged, because it was returned before or is over.
func TestReturnOfSlice(t *testing.T) {
	n := newNode(t)
	id := requestid.Slice("node2", 1)
	for _, tt := range []struct {
		what  string
		r     *pb.SliceReturn
		field string // "": acknowledged
	}{
		{"unknown", &pb.SliceReturn{Key: "acme/alice", Slice: id, Spent: []int64{1}, Calls: 1}, ""},
		{"no key", &pb.SliceReturn{Slice: id}, "key"},
		{"no id", &pb.SliceReturn{Key: "acme/alice"}, "slice"},
		{"id of a caller", &pb.SliceReturn{Key: "acme/alice", Slice: "r"}, "slice"},
		{"id that is not text", &pb.SliceReturn{Key: "acme/alice", Slice: "slice:\n"}, "slice"},
		{"negative amount", &pb.SliceReturn{Key: "acme/alice", Slice: id, Spent: []int64{0, -1}}, "spent"},
		{"too large an amount", &pb.SliceReturn{Key: "acme/alice", Slice: id, Spent: []int64{limiter.MaxAmount + 1}}, "spent"},
		{"too many amounts", &pb.SliceReturn{Key: "acme/alice", Slice: id, Spent: make([]int64, maxSpent+1)}, "spent"},
		{"negative calls", &pb.SliceReturn{Key: "acme/alice", Slice: id, Calls: -1}, "calls"},
	} {
		got := answers(n.Service, returnItem(tt.r))[0]
		if got.GetError().GetField() != tt.field || (tt.field == "") != (got.GetSliceEnded() != nil) {
			t.Errorf("%s: result = %v, want an error of field %q", tt.what, got, tt.field)
		}
	}
	recall := &pb.Item{Call: &pb.Item_SliceRecall{SliceRecall: &pb.SliceRecall{Key: "acme/alice"}}}
	if got := answers(n.Service, recall)[0]; got.GetError().GetField() != "call" {
		t.Errorf("recall at a service = %v, want an error", got)
	}
}

// TestIDsOfSlices: no caller may choose an id that a slice may have.
func TestIDsOfSlices(t *testing.T) {
	n := newNode(t)
	for _, item := range []*pb.Item{
		item(&pb.CheckRequest{Key: "acme/alice", RequestId: "slice:a:1"}),
		item(&pb.ReserveRequest{Key: "acme/alice", RequestId: "slice:a:1", MaxOutputTokens: new(int64(1))}),
	} {
		if got := brief(answers(n.Service, item)[0]); got != "InvalidArgument request_id" {
			t.Errorf("%v = %s, want an error of request_id", item, got)
		}
	}
}

// TestLend: a slice comes with the answer in every form, and its charge is in the change of
// the call. When it is returned, only what was spent stays charged.
func TestLend(t *testing.T) {
	n := newNode(t)
	q := &pb.CheckRequest{Key: "acme/alice", Tier: "watched", Requests: new(int64(0))}
	used := func() (total int64) {
		for _, l := range answers(n.Service, item(&pb.PeekRequest{Key: q.Key, Tier: q.Tier}))[0].GetLimits().GetLimits() {
			total += l.Capacity - l.Remaining
		}
		return total
	}
	calls := []call.Call{call.Of(q)}
	results := n.NewResults(1)
	defer results.Release()
	n.Decide(calls, results)
	if _, _, ok := results.Lendable(0); !ok {
		t.Fatalf("Lendable() of %v = false", results.Get(0))
	}
	loan := limiter.Loan{ID: requestid.Slice("node2", 1), Share: 500, Holders: 1}
	if n.Lend(results, 0, &loan) {
		t.Errorf("Lend() for a check that costs nothing = true, with %v", results.Get(0).GetSlice())
	}
	if results.Get(0).GetSlice() != nil || results.Change(0).Large {
		t.Error("Lend() has changed the answer, although nothing was lent")
	}

	q.Requests = nil
	q.Tier = "lent"
	results = n.NewResults(1)
	defer results.Release()
	n.Decide(calls, results)
	before := used()
	if !n.Lend(results, 0, &loan) {
		t.Fatalf("Lend() of %v = false", results.Get(0))
	}
	got := results.Get(0)
	s := got.GetSlice()
	if s.GetId() != loan.ID || len(s.GetAmounts()) != len(got.GetDecision().GetLimits()) || s.GetLeaseNanos() != int64(loan.Lease) || loan.Lease <= 0 || loan.Calls < 4 {
		t.Errorf("slice = %v of loan %+v, want its id, an amount for each limit, and its lease", s, loan)
	}
	if all := results.All()[0].GetSlice(); all.GetId() != loan.ID {
		t.Errorf("slice of All() = %v", all)
	}
	if c := results.Change(0); !c.Large || c.Seq == 0 {
		t.Errorf("change = %+v, want it large", c)
	}
	if left := got.GetDecision().GetLimits()[0].GetRemaining(); left != 1000-before {
		t.Errorf("%d left in the answer, want %d: nothing is spent of the slice", left, 1000-before)
	}
	if n := used(); n < before+loan.Calls {
		t.Errorf("%d used while %d calls are lent, want at least %d", n, loan.Calls, before+loan.Calls)
	}
	back := returnItem(&pb.SliceReturn{Key: q.Key, Slice: loan.ID, Spent: []int64{3}, Calls: 3})
	for range 2 { // the second time nothing happens
		if got := answers(n.Service, back)[0]; got.GetSliceEnded() == nil {
			t.Errorf("return = %v", got)
		}
		if n := used(); n != before+3 {
			t.Errorf("%d used after the return, want %d", n, before+3)
		}
	}
}

// count sums the series of a counter or of a histogram.
func (n *node) count(name string) (sum float64) {
	families, err := n.registry.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

// TestDecideAgain: a denial that was kept is counted once, whether it is decided again or
// not.
func TestDecideAgain(t *testing.T) {
	n := newNode(t)
	q := &pb.CheckRequest{Key: "acme/alice", Tier: "lent", Requests: new(int64(600))}
	calls := []call.Call{call.Of(q), call.Of(q), call.Of(q)}
	results := n.NewResults(3)
	defer results.Release()
	results.KeepDenials()
	n.Decide(calls, results)
	for i, denied := range []bool{false, true, true} {
		if (results.Denied(i) != nil) != denied {
			t.Errorf("Denied(%d) = %v, want limits: %v", i, results.Denied(i), denied)
		}
	}
	n.DecideAgain(calls, []int{1}, results)
	n.CountDenials(results, 0)
	n.CountDenials(results, 0)
	for i := range calls {
		if results.Denied(i) != nil || results.Get(i).GetDecision() == nil {
			t.Errorf("result %d = %v, want it to be counted", i, results.Get(i))
		}
	}
	if got := n.count("bucketring_decisions_total"); got != 3 {
		t.Errorf("%v decisions counted, want 3", got)
	}
	if got := n.count("bucketring_decision_duration_seconds"); got != 3 {
		t.Errorf("%v durations observed, want 3", got)
	}
}
