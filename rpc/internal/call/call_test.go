// SPDX-License-Identifier: Apache-2.0

package call

import (
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestSliceItems: who may send what about slices, and that it is sent on as it came.
func TestSliceItems(t *testing.T) {
	back := &pb.Item{Call: &pb.Item_SliceReturn{SliceReturn: &pb.SliceReturn{Key: "a/b", Slice: "slice:n:1", Spent: []int64{1, 2}, Calls: 3}}}
	recall := &pb.Item{Call: &pb.Item_SliceRecall{SliceRecall: &pb.SliceRecall{Key: "a/b"}}}
	check := &pb.Item{TakesSlice: true, Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: "a/b"}}}
	peek := &pb.Item{TakesSlice: true, Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: "a/b"}}}
	for _, tt := range []struct {
		item  *pb.Item
		kind  Kind
		takes bool
		by    []Origin // who may send it
	}{
		{back, SliceReturn, false, []Origin{API, ClientStream, MemberStream, Outbox}},
		{recall, SliceRecall, false, []Origin{MemberStream}},
		{check, Check, true, []Origin{API, ClientStream, MemberStream, Outbox}},
		{peek, Peek, false, []Origin{API, ClientStream, MemberStream, Outbox}},
	} {
		for _, origin := range []Origin{API, ClientStream, MemberStream, Outbox} {
			c := FromItem(tt.item, origin)
			allowed := false
			for _, by := range tt.by {
				allowed = allowed || by == origin
			}
			if (c.Err == nil) != allowed {
				t.Errorf("FromItem(%s, %d) has error %v, want it allowed: %v", tt.kind, origin, c.Err, allowed)
			}
			if c.Kind != tt.kind || c.Key != "a/b" || c.TakesSlice != tt.takes || c.Partition != Of(&pb.PeekRequest{Key: "a/b"}).Partition {
				t.Errorf("FromItem(%s, %d) = %+v", tt.kind, origin, c)
			}
			if sent := c.Item(false); sent.GetTakesSlice() != tt.takes || sent.GetSliceReturn() != tt.item.GetSliceReturn() || sent.GetSliceRecall() != tt.item.GetSliceRecall() {
				t.Errorf("Item() of %s = %v", tt.kind, sent)
			}
			if c.Copy().GetTakesSlice() {
				t.Errorf("Copy() of %s takes a slice, which nobody waits for", tt.kind)
			}
		}
		if tt.kind != Check && (tt.kind.IsNew() || tt.kind.EndsReservation()) {
			t.Errorf("%s is new or ends a reservation", tt.kind)
		}
	}
	if c := FromItem(back, MemberStream); c.SliceReturn().GetCalls() != 3 || c.RequestID != "" {
		t.Errorf("return = %+v, want its request and no id", c)
	}
}

// TestIDsOfSlices: calls with an id that a slice may have are rejected.
func TestIDsOfSlices(t *testing.T) {
	for _, c := range []Call{
		Of(&pb.CheckRequest{Key: "a", RequestId: "slice:n:1"}),
		Of(&pb.ReserveRequest{Key: "a", RequestId: "slice:n:1"}),
		Of(&pb.CountRequest{Key: "a", RequestId: "slice:n:1"}),
	} {
		if c.Err == nil {
			t.Errorf("%s with the id of a slice has no error", c.Kind)
		}
	}
}

// TestKinds: every kind has a name.
func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds {
		if name := k.String(); name == "" || name == "none" || seen[name] {
			t.Errorf("kind %d is named %q", k, name)
		} else {
			seen[name] = true
		}
	}
}
