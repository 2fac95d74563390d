// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

func resetOf(key, limit, id string) *pb.AdminCall {
	return &pb.AdminCall{Key: key, Call: &pb.AdminCall_ResetLimits{ResetLimits: &pb.ResetLimitsRequest{Key: key, Limit: limit, RequestId: id}}}
}

func grantOf(key, limit string, units int64, id string) *pb.AdminCall {
	return &pb.AdminCall{Key: key, Call: &pb.AdminCall_Grant{Grant: &pb.GrantCreditRequest{Key: key, Limit: limit, Amount: units, RequestId: id}}}
}

func endReservationOf(key, reservation string, charge pb.EndCharge, id string) *pb.AdminCall {
	return &pb.AdminCall{Key: key, Call: &pb.AdminCall_End{End: &pb.EndReservationRequest{Key: key, Reservation: reservation, Charge: charge, RequestId: id}}}
}

func inspectOf(key, tier string) *pb.AdminCall {
	return &pb.AdminCall{Key: key, Call: &pb.AdminCall_Inspect{Inspect: &pb.InspectKeyRequest{Key: key, Tier: tier}}}
}

// administer makes a call of an operator at n.
func administer(t *testing.T, n *node, c *pb.AdminCall) *pb.AdminAnswer {
	t.Helper()
	a, err := n.Administer(waittest.Context(t, testWait), c)
	if err != nil {
		t.Fatalf("Administer(%v) at %s = %v", c, n.name, err)
	}
	return a
}

func keyLimit(t *testing.T, k *pb.InspectKeyResponse, name string) *pb.KeyLimit {
	t.Helper()
	for _, l := range k.GetLimits() {
		if l.GetName() == name {
			return l
		}
	}
	t.Fatalf("%v has no limit %s", k, name)
	return nil
}

// TestAdministerAtAnyMember looks at a key and changes it at each of three members: the owner
// does it, once for each id, and the answers are the same.
func TestAdministerAtAnyMember(t *testing.T) {
	nodes := newCluster(t, 3)
	for i, owner := range nodes {
		key, ctx := owner.ownedBy(i), waittest.Context(t, testWait)
		if _, err := owner.Reserve(ctx, &pb.ReserveRequest{Key: key, InputTokens: 600, MaxOutputTokens: new(int64(100)), RequestId: "r"}); err != nil {
			t.Fatal(err)
		}
		var first *pb.InspectKeyResponse
		for _, n := range nodes {
			k := administer(t, n, inspectOf(key, "")).GetState()
			if first == nil {
				first = k
			}
			if diff := cmp.Diff(first, k, protocmp.Transform()); diff != "" {
				t.Errorf("the state of %s at %s is another:\n%s", key, n.name, diff)
			}
		}
		if l := keyLimit(t, first, "tokens"); l.Used != 700 || first.Owner != owner.name || first.Running != 1 || len(first.Reservations) != 1 {
			t.Errorf("InspectKey(%s) = %v, want 700 tokens used, at %s, and one reservation", key, first, owner.name)
		}
		if r := first.Reservations[0]; r.Ref != limiter.ReservationRef(key, "r") || r.Key != key || len(r.Charges) != 3 {
			t.Errorf("InspectKey(%s) lists %v", key, r)
		}
		for j, c := range []*pb.AdminCall{
			resetOf(key, "tokens", "1"), grantOf(key, "requests", 7, "2"), endReservationOf(key, first.Reservations[0].Ref, pb.EndCharge_END_CHARGE_ESTIMATE, "3"),
		} {
			var made *pb.Change
			for k := range nodes {
				change := administer(t, nodes[(i+j+k)%3], c).GetChange()
				if change.Replayed != (k > 0) || change.Owner != owner.name {
					t.Errorf("change %d, time %d = %v, want it made once, by %s", j, k+1, change, owner.name)
				}
				if made == nil {
					made = change
				}
				change.Replayed = made.Replayed
				if j == 1 {
					change.Limits[0].CreditEnds = made.Limits[0].CreditEnds
				}
				if diff := cmp.Diff(made, change, protocmp.Transform()); diff != "" {
					t.Errorf("the answer of change %d is another when it is repeated:\n%s", j, diff)
				}
			}
		}
		k := administer(t, nodes[(i+1)%3], inspectOf(key, "")).GetState()
		if tokens, requests := keyLimit(t, k, "tokens"), keyLimit(t, k, "requests"); tokens.Used != 0 || requests.Credit != 7 || requests.Used != 1 || k.Running != 0 {
			t.Errorf("after the changes InspectKey(%s) = %v", key, k)
		}
		p, err := nodes[(i+2)%3].Peek(ctx, &pb.PeekRequest{Key: key})
		if err != nil || p.Limits[0].Credit != 7 {
			t.Errorf("Peek(%s) = %v, %v, want a credit of 7", key, p, err)
		}
		if used := owner.used(key, "", "concurrent"); used != 0 {
			t.Errorf("%d slots are taken after the reservation was ended", used)
		}
	}
}

// TestAdministerBadInput: what is wrong is said by its field at each member, and changes
// nothing.
func TestAdministerBadInput(t *testing.T) {
	nodes := newCluster(t, 2)
	key := nodes[0].ownedBy(0)
	wrongKey := resetOf(key, "", "x")
	wrongKey.Key = nodes[0].ownedBy(1)
	if _, err := nodes[0].Check(t.Context(), &pb.CheckRequest{Key: key, InputTokens: 5, RequestId: "check"}); err != nil {
		t.Fatal(err)
	}
	tier := inspectOf(key, "gold")
	for name, tt := range map[string]struct {
		call *pb.AdminCall
		code codes.Code
		want string
	}{
		"unknown limit":     {resetOf(key, "tokans", "1"), codes.InvalidArgument, `did you mean tokens?; its limits are requests, tokens, concurrent, got "tokans"`},
		"slots":             {resetOf(key, "concurrent", "2"), codes.InvalidArgument, "cannot be reset"},
		"no id":             {resetOf(key, "", ""), codes.InvalidArgument, "request_id"},
		"no key":            {resetOf("", "", "3"), codes.InvalidArgument, "key"},
		"two keys":          {wrongKey, codes.InvalidArgument, "key: must be the key of the call"},
		"nothing":           {&pb.AdminCall{Key: key}, codes.InvalidArgument, "call"},
		"negative":          {grantOf(key, "tokens", -1, "4"), codes.InvalidArgument, "amount: must be between 1 and 2^53"},
		"zero":              {grantOf(key, "tokens", 0, "5"), codes.InvalidArgument, "amount: must be between 1"},
		"too much":          {grantOf(key, "tokens", limiter.MaxAmount+1, "6"), codes.InvalidArgument, "amount: must be between 1"},
		"credit of slots":   {grantOf(key, "concurrent", 1, "7"), codes.InvalidArgument, "has no credit"},
		"no limit":          {grantOf(key, "", 1, "8"), codes.InvalidArgument, "limit"},
		"unknown id":        {endReservationOf(key, "nobody", 0, "9"), codes.NotFound, "unknown reservation"},
		"a check":           {endReservationOf(key, "check", 0, "10"), codes.AlreadyExists, "used for a check"},
		"unknown charge":    {endReservationOf(key, "nobody", 9, "11"), codes.InvalidArgument, "charge"},
		"unknown reference": {endReservationOf(key, limiter.ReservationRef(key, "x"), 0, "12"), codes.NotFound, "unknown reservation"},
		"unknown tier":      {tier, codes.InvalidArgument, "tier"},
	} {
		for _, n := range nodes {
			if _, err := n.Administer(waittest.Context(t, testWait), tt.call); grpcstatus.Code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("%s at %s = %v, want %s with %q", name, n.name, err, tt.code, tt.want)
			}
		}
	}
	administer(t, nodes[1], grantOf(key, "tokens", limiter.MaxAmount, "13"))
	if _, err := nodes[1].Administer(t.Context(), grantOf(key, "tokens", 1, "14")); err == nil || !strings.Contains(err.Error(), "that were granted must be at most") {
		t.Errorf("a credit that overflows = %v", err)
	}
	if _, err := nodes[0].Administer(t.Context(), grantOf(key, "requests", 1, "13")); grpcstatus.Code(err) != codes.AlreadyExists {
		t.Errorf("another change with the same id = %v, want AlreadyExists", err)
	}
	if used := nodes[0].used(key, "", "tokens"); used != 5 {
		t.Errorf("%d tokens are used, want 5", used)
	}

	// Clients and batches do not administer.
	b, err := nodes[0].Batch(t.Context(), &pb.BatchRequest{Items: []*pb.Item{{Call: &pb.Item_Admin{Admin: resetOf(key, "", "15")}}}})
	if err != nil || b.Results[0].GetError().GetField() != "call" {
		t.Errorf("a batch with a reset = %v, %v, want it rejected", b, err)
	}
	if c := call.FromItem(&pb.Item{Call: &pb.Item_Admin{Admin: resetOf(key, "", "16")}}, call.ClientStream); c.Err == nil {
		t.Error("a client's stream may reset")
	}
}

// TestResetRecallsSlices resets a limit of which another member holds a part: that comes back
// first, so that nothing is used afterwards but what is spent then.
func TestResetRecallsSlices(t *testing.T) {
	nodes := newCluster(t, 3, holding)
	owner, key := nodes[0], nodes[0].ownedBy(0)
	heat(t, nodes[1], key)
	hold(t, nodes[1], key)
	k := administer(t, nodes[2], inspectOf(key, "hot")).GetState()
	if l := keyLimit(t, k, "requests"); len(k.Slices) == 0 || k.Slices[0].Holder != nodes[1].name || !k.Slices[0].Member || l.Lent == 0 || l.Lent > l.Used {
		t.Fatalf("InspectKey() = %v, want a slice at %s", k, nodes[1].name)
	}
	c := resetOf(key, "requests", "1")
	c.GetResetLimits().Tier = "hot"
	change := administer(t, nodes[2], c).GetChange()
	if l := change.GetLimits()[0]; l.After != 0 || l.Before == 0 {
		t.Errorf("ResetLimits() = %v, want everything back, since the holder answers", change)
	}
	if used := owner.used(key, "hot", "requests"); used != 0 {
		t.Errorf("%d are used after the reset", used)
	}
	if got := exhaust(t, owner, key); got != hotLimit {
		t.Errorf("%d calls are admitted after the reset, want %d", got, hotLimit)
	}
}

// TestAdministerWithoutOwner: no other member answers for the owner.
func TestAdministerWithoutOwner(t *testing.T) {
	nodes := newCluster(t, 2)
	key := nodes[1].ownedBy(0)
	nodes[1].kill()
	if _, err := nodes[0].Administer(waittest.Context(t, testWait), resetOf(key, "", "1")); grpcstatus.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "send it again with the same request_id") {
		t.Errorf("ResetLimits() without the owner = %v, want Unavailable", err)
	}
}

// earlier is a stream to a member of a version without administration.
type earlier struct{ recorder }

func (r *earlier) Send(b *pb.Batch) error {
	b, err := link.Decoded(b)
	if err != nil {
		return err
	}
	answers := &pb.Answers{Sequence: b.Sequence}
	for range b.Items {
		answers.Results = append(answers.Results, &pb.Result{Result: &pb.Result_Error{Error: &pb.Error{
			Code: int32(codes.InvalidArgument), Field: "call", Message: "call: must be check, reserve, settle, cancel or peek, got none",
		}}})
	}
	r.answers <- answers
	return nil
}

// TestAdministerAtEarlierVersion: an owner that does not know what an operator's call is
// is to be upgraded, and its key is not changed elsewhere.
func TestAdministerAtEarlierVersion(t *testing.T) {
	nodes := newCluster(t, 2)
	key := nodes[1].ownedBy(0)
	owner := nodes[0].ownerOf(nodes[0].table.Load(), call.Of(&pb.PeekRequest{Key: key}).Partition)
	owner.peer.link.Close()
	stream := &earlier{recorder{answers: make(chan *pb.Answers, 1)}}
	owner.peer.link = link.New(link.Options{
		Timeout: testWait,
		Open: func(ctx context.Context) (link.Stream, error) {
			stream.done = ctx.Done()
			return stream, nil
		},
		Ring: func() uint64 { return 0 },
	})
	_, err := nodes[0].Administer(waittest.Context(t, testWait), resetOf(key, "", "1"))
	if grpcstatus.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "node2, the owner of the key, runs a version without administration: upgrade it") {
		t.Errorf("ResetLimits() at an earlier version = %v", err)
	}
}
