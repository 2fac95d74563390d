// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/internal/codec/fieldtest"
	"github.com/bucketring/bucketring/rpc/pb"
)

func parseAnswers(wire []byte) (sequence uint64, results [][]byte, err error) {
	var a Answers
	err = a.Parse(wire)
	return a.Sequence, a.Results, err
}

// roundTrip encodes r, decodes it with d and returns a copy of the answer.
func roundTrip[M any, P interface {
	answer[M]
	proto.Message
}](t *testing.T, d *Decoder[M, P], r *pb.Result,
) proto.Message {
	t.Helper()
	wire := AppendResult([]byte{}, r)
	_, results, err := parseAnswers(wire)
	if err != nil || len(results) != 1 {
		t.Fatalf("Parse() = %v, %d results", err, len(results))
	}
	a, _, other, err := d.Decode(Encoded{Result: results[0]})
	if err != nil || a == nil {
		t.Fatalf("Decode() = %v, %v", other, err)
	}
	defer d.Release(a)
	clone, err := proto.Marshal(a) // the strings of a are not its own
	if err != nil {
		t.Fatal(err)
	}
	m := P(new(M))
	if err := proto.Unmarshal(clone, m); err != nil {
		t.Fatal(err)
	}
	for _, l := range *d.limits(m) {
		if proto.Size(l.GetResetAt()) == 0 {
			l.ResetAt = nil
		}
		if proto.Size(l.GetWindow()) == 0 {
			l.Window = nil
		}
		if proto.Size(l.GetMaxWait()) == 0 {
			l.MaxWait = nil
		}
	}
	return m
}

// full returns a result with every field of the answer in one of its fields.
func full(t *testing.T, in protoreflect.Name) *pb.Result {
	t.Helper()
	d := (&pb.Result{}).ProtoReflect().Descriptor().Fields().ByName(in).Message()
	wire, err := proto.Marshal(fieldtest.Full(d))
	if err != nil {
		t.Fatal(err)
	}
	r := &pb.Result{}
	if err := proto.Unmarshal(fieldtest.Wrap(r, in, wire), r); err != nil {
		t.Fatal(err)
	}
	r.Term = 1
	return r
}

// Every field is encoded and decoded, and none stays behind in memory that is reused. It
// fails if the .proto has gained a field and `make generate` was forgotten.
func TestEveryField(t *testing.T) {
	limits := []*pb.LimitState{{}}
	for range 3 { // the second and third decode into the memory of the one before
		for _, tt := range []struct{ want, got proto.Message }{
			{full(t, "decision").GetDecision(), roundTrip(t, &Decisions, full(t, "decision"))},
			{full(t, "settlement").GetSettlement(), roundTrip(t, &Settlements, full(t, "settlement"))},
			{full(t, "limits").GetLimits(), roundTrip(t, &Peeks, full(t, "limits"))},
			{&pb.Decision{Limits: limits}, roundTrip(t, &Decisions, &pb.Result{Result: &pb.Result_Decision{Decision: &pb.Decision{Limits: limits}}})},
			{&pb.Settlement{Limits: limits}, roundTrip(t, &Settlements, &pb.Result{Result: &pb.Result_Settlement{Settlement: &pb.Settlement{Limits: limits}}})},
			{&pb.PeekResponse{Limits: limits}, roundTrip(t, &Peeks, &pb.Result{Result: &pb.Result_Limits{Limits: &pb.PeekResponse{Limits: limits}}})},
		} {
			if d := cmp.Diff(tt.want, tt.got, protocmp.Transform()); d != "" {
				t.Errorf("%T (-want +got):\n%s", tt.want, d)
			}
		}
	}
	for _, in := range []protoreflect.Name{"error", "redirect", "counted"} {
		want := full(t, in)
		_, results, _ := parseAnswers(AppendResult(nil, want))
		a, _, got, err := Decisions.Decode(Encoded{Result: results[0]})
		if d := cmp.Diff(want, got, protocmp.Transform()); d != "" || a != nil || err != nil {
			t.Errorf("%s: %v, %v (-want +got):\n%s", in, a, err, d)
		}
	}
}

func TestMaxItemOverhead(t *testing.T) {
	for _, n := range []int{0, 200, 1 << 20} {
		for _, timeout := range []int64{0, 1, math.MaxInt64} {
			if got := len(AppendItem(nil, make([]byte, n), timeout)) - n; got > MaxItemOverhead {
				t.Errorf("an item of %d bytes takes %d more, want at most %d", n, got, MaxItemOverhead)
			}
		}
	}
}

// The memory of an unusually large answer is not kept.
func TestLargeAnswersAreNotKept(t *testing.T) {
	r := &pb.Result{Result: &pb.Result_Decision{Decision: &pb.Decision{Limits: make([]*pb.LimitState, maxKeptLimits+1)}}}
	for i := range r.GetDecision().Limits {
		r.GetDecision().Limits[i] = &pb.LimitState{}
	}
	_, results, _ := parseAnswers(AppendResult(nil, r))
	for range 10 {
		a, _, _, err := Decisions.Decode(Encoded{Result: results[0]})
		if err != nil {
			t.Fatal(err)
		}
		Decisions.Release(a)
		if kept, _ := Decisions.free.Get().(*pb.Decision); kept != nil && cap(kept.Limits) > 2*maxKeptLimits {
			t.Fatalf("room for %d limits is kept", cap(kept.Limits))
		}
	}
}
