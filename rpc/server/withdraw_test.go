// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestWithdrawal: a cancel with the number of a sending answers as one without,
// whatever it finds, and the sending is not decided afterwards.
func TestWithdrawal(t *testing.T) {
	n := newNode(t)
	sending := func(call proto.Message, attempt uint64) *pb.Item {
		i := item(call)
		i.Attempt = attempt
		return i
	}
	q := &pb.ReserveRequest{Key: "acme/alice", RequestId: "r", MaxOutputTokens: new(int64(10))}
	back := &pb.CancelRequest{Key: "acme/alice", RequestId: "r"}
	for _, tt := range []struct {
		what string
		item *pb.Item
		want string
	}{
		{"reserve", sending(q, 1), "r allowed"},
		{"withdrawal", sending(back, 1), "r cancelled"},
		{"a late copy", sending(q, 1), "Aborted"},
		{"a retry", sending(q, 2), "r allowed"},
		{"a second withdrawal", sending(back, 1), "r cancelled"},
		{"settle of the retry", item(&pb.SettleRequest{Key: "acme/alice", RequestId: "r"}), "r settled"},
		{"withdrawal under a wrong key", sending(&pb.CancelRequest{Key: "acme//alice", RequestId: "r"}, 2), "InvalidArgument key"},
	} {
		if got := brief(answers(n.Service, tt.item)[0]); got != tt.want {
			t.Errorf("%s = %s, want %s", tt.what, got, tt.want)
		}
	}
}

// TestWithdrawalOfCheck: a cancel with a check and its attempt gives back what the check
// was charged, and nothing of it stays in the memory that calls reuse.
func TestWithdrawalOfCheck(t *testing.T) {
	n := newNode(t)
	q := &pb.CheckRequest{Key: "acme/alice", Tier: "watched", RequestId: "c", Costs: map[string]int64{"images": 4}}
	attempt := func(n uint64) *pb.Item {
		i := item(q)
		i.Attempt = n
		return i
	}
	withdrawal := func(key string, q *pb.CheckRequest) *pb.Item {
		i := item(&pb.CancelRequest{Key: key, RequestId: "c"})
		i.Attempt, i.Withdrawn = 1, q
		return i
	}
	for _, tt := range []struct {
		what   string
		item   *pb.Item
		want   string
		images int64 // left
	}{
		{"check", attempt(1), "c allowed", 1},
		{"withdrawal under another key", withdrawal("acme/bob", q), "InvalidArgument withdrawn.key", 1},
		{"withdrawal in an unknown tier", withdrawal("acme/alice", &pb.CheckRequest{Key: "acme/alice", Tier: "gold"}), "InvalidArgument tier", 1},
		{"withdrawal", withdrawal("acme/alice", q), "c cancelled", 5},
		{"a late copy", attempt(1), "Aborted", 5},
		{"another check", item(&pb.CheckRequest{Key: "acme/alice", Tier: "watched", RequestId: "d"}), "d allowed", 5},
		{"a retry", attempt(2), "c allowed", 1},
		{"withdrawal again", withdrawal("acme/alice", q), "c cancelled", 1},
	} {
		if got := brief(answers(n.Service, tt.item)[0]); got != tt.want {
			t.Errorf("%s = %s, want %s", tt.what, got, tt.want)
		}
		for _, l := range answers(n.Service, item(&pb.PeekRequest{Key: "acme/alice", Tier: "watched"}))[0].GetLimits().GetLimits() {
			if l.Dimension == "images" && l.Remaining != tt.images {
				t.Errorf("after %s %d images are left, want %d", tt.what, l.Remaining, tt.images)
			}
		}
	}
}

// TestWithdrawalOfUnary: the attempt of a unary call is in its metadata. Without, or with
// metadata that is no number, the call cannot be withdrawn.
func TestWithdrawalOfUnary(t *testing.T) {
	for value, left := range map[string]int64{"1": 5, "": 1, "x": 1, "2": 1} {
		n := newNode(t)
		q := &pb.CheckRequest{Key: "acme/alice", Tier: "watched", RequestId: "c", Costs: map[string]int64{"images": 4}}
		ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{"bucketring-attempt": {value}})
		if d, err := n.Check(ctx, q); err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
			t.Fatalf("Check() = %v, %v", d, err)
		}
		withdrawal := item(&pb.CancelRequest{Key: q.Key, RequestId: "c"})
		withdrawal.Attempt, withdrawal.Withdrawn = 1, q
		answers(n.Service, withdrawal)
		for _, l := range answers(n.Service, item(&pb.PeekRequest{Key: q.Key, Tier: "watched"}))[0].GetLimits().GetLimits() {
			if l.Dimension == "images" && l.Remaining != left {
				t.Errorf("attempt %q: %d images are left, want %d", value, l.Remaining, left)
			}
		}
	}
}
