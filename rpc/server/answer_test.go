// SPDX-License-Identifier: Apache-2.0

package server

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/codec/fieldtest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// inBytes is what [Results.Append] makes of the calls, decoded.
func inBytes(t interface {
	Helper()
	Fatalf(string, ...any)
}, s *Service, results []*pb.Result, calls ...*scratch,
) []*pb.Result {
	t.Helper()
	d := resultsOf(s, results, calls)
	before := []byte("before")
	wire := d.Append(before)
	var a pb.Answers
	if err := proto.Unmarshal(wire[len(before):], &a); err != nil {
		t.Fatalf("Unmarshal(%x) = %v", wire, err)
	}
	return a.Results
}

// inMessages is the same in messages that are made for each answer.
func inMessages(s *Service, calls ...*scratch) []*pb.Result {
	return resultsOf(s, make([]*pb.Result, len(calls)), calls).All()
}

func resultsOf(s *Service, done []*pb.Result, calls []*scratch) *Results {
	r := &Results{service: s}
	for i, x := range calls {
		r.list = append(r.list, result{done: done[i], scratch: x})
	}
	return r
}

// anyCall has any decision, possible or not.
func anyCall(t *rapid.T) *scratch {
	text := rapid.OneOf(rapid.SampledFrom([]string{"", "acme/alice", "tokens"}), rapid.StringN(0, 300, 300))
	number := rapid.OneOf(rapid.SampledFrom([]int64{0, 1, 127, 128, -1, limiter.MaxAmount, math.MaxInt64, math.MinInt64}), rapid.Int64())
	length := rapid.OneOf(rapid.SampledFrom([]int64{0, -1, 1, 999_999_999, 1_000_000_000, math.MaxInt64}), rapid.Int64())
	c := &scratch{
		kind:     rapid.SampledFrom(call.Kinds[:]).Draw(t, "kind"),
		callerID: text.Draw(t, "id of the reservation"),
	}
	c.request.ID = text.Draw(t, "id")
	c.plan.BoundOutput = rapid.Bool().Draw(t, "bound output")
	d := &c.decision
	d.Outcome = limiter.Outcome(rapid.IntRange(0, 3).Draw(t, "outcome"))
	d.Reason = limiter.Reason(rapid.IntRange(0, 5).Draw(t, "reason"))
	d.Tier = text.Draw(t, "tier")
	d.GrantedOutputTokens = number.Draw(t, "granted")
	d.RetryAfter = time.Duration(length.Draw(t, "retry"))
	d.Binding = rapid.IntRange(-1, 4).Draw(t, "binding")
	d.PolicyVersion = rapid.Uint64().Draw(t, "version")
	d.Replayed = rapid.Bool().Draw(t, "replayed")
	c.wait = waitState{
		mayWait: rapid.Bool().Draw(t, "may wait"), waited: time.Duration(length.Draw(t, "waited")),
		place: rapid.Int64Range(0, 3).Draw(t, "place"), refused: text.Draw(t, "refused"),
	}
	c.request.Priority = limiter.Priority(rapid.IntRange(0, 3).Draw(t, "priority"))
	d.Status = limiter.Status(rapid.IntRange(0, 4).Draw(t, "status"))
	for range rapid.IntRange(0, 5).Draw(t, "limits") {
		d.Limits = append(d.Limits, limiter.LimitState{
			Name: text.Draw(t, "name"), Dimension: limiter.Dimension(text.Draw(t, "dimension")), Scope: text.Draw(t, "scope"),
			Algorithm: limiter.Algorithm(rapid.IntRange(0, 3).Draw(t, "algorithm")),
			Limit:     number.Draw(t, "limit"), Capacity: number.Draw(t, "capacity"), Remaining: number.Draw(t, "remaining"), Debt: number.Draw(t, "debt"),
			Window: time.Duration(length.Draw(t, "window")), ResetAt: length.Draw(t, "reset"),
			Cost: number.Draw(t, "cost"), Shadow: rapid.Bool().Draw(t, "shadow"), Exceeded: rapid.Bool().Draw(t, "exceeded"), Hidden: rapid.Bool().Draw(t, "hidden"), PerModel: rapid.Bool().Draw(t, "per model"),
			Headroom: number.Draw(t, "headroom"), Queue: limiter.Queue{MaxWait: time.Duration(length.Draw(t, "max wait"))},
		})
	}
	c.count.Limit = number.Draw(t, "limit")
	c.counted = limiter.CountResult{
		Used: number.Draw(t, "used"), End: number.Draw(t, "end"), Reset: number.Draw(t, "reset"),
		Over: rapid.Bool().Draw(t, "over"), Full: rapid.Bool().Draw(t, "full"), Replayed: rapid.Bool().Draw(t, "replayed"),
	}
	return c
}

func sameOnTheWire(t *rapid.T) {
	s := &Service{owner: rapid.SampledFrom([]string{"", "node1", strings.Repeat("n", 200)}).Draw(t, "owner"), route: pb.Route(rapid.IntRange(0, 4).Draw(t, "route"))}
	calls := rapid.SliceOfN(rapid.Custom(anyCall), 0, 4).Draw(t, "calls")
	want := inMessages(s, calls...)
	if diff := cmp.Diff(want, inBytes(t, s, make([]*pb.Result, len(calls)), calls...), protocmp.Transform()); diff != "" && len(calls) > 0 {
		t.Errorf("results in reused memory (+) and in their own (-):\n%s", diff)
	}
}

// Answers made in reused memory and encoded by vtprotobuf are those of protobuf.
func TestWire(t *testing.T) { rapid.Check(t, sameOnTheWire) }
func FuzzWire(f *testing.F) { f.Fuzz(rapid.MakeFuzz(sameOnTheWire)) }

// Every field of an answer is filled.
func TestEveryFieldIsFilled(t *testing.T) {
	s := &Service{owner: "node1", route: pb.Route_ROUTE_LOCAL}
	full := limiter.LimitState{
		Name: "n", Dimension: "d", Scope: "s", Algorithm: 1, Limit: 1, Capacity: 2, Remaining: 3, Debt: 4, Window: 5, ResetAt: 6,
		Cost: 7, Credit: 9, Reserved: 8, Shadow: true, Exceeded: true, Hidden: true, PerModel: true,
		Headroom: 10, Queue: limiter.Queue{MaxWait: 11},
	}
	waited := waitState{mayWait: true, waited: 1, place: 2, refused: "r"}
	answers := map[protoreflect.Name]bool{"error": true, "redirect": true} // not from a call
	for _, c := range []*scratch{
		{kind: call.Check, wait: waited, decision: limiter.Decision{Outcome: limiter.Denied, Reason: 1, Tier: "t", RetryAfter: 1, Replayed: true, Limits: []limiter.LimitState{full}}},
		{kind: call.Reserve, wait: waited, plan: limiter.Plan{BoundOutput: true}, decision: limiter.Decision{Outcome: limiter.Allowed, Reason: 1, Tier: "t", GrantedOutputTokens: 1, Replayed: true, Limits: []limiter.LimitState{full}}},
		{kind: call.Settle, callerID: "r", decision: limiter.Decision{Tier: "t", Status: limiter.Held, Limits: []limiter.LimitState{full}}},
		{kind: call.Peek, decision: limiter.Decision{Tier: "t", Limits: []limiter.LimitState{full}}},
		{kind: call.SliceReturn},
		{kind: call.Admin, admin: admin{answer: &pb.AdminAnswer{Answer: &pb.AdminAnswer_Change{Change: &pb.Change{}}}}},
		{kind: call.Count, count: limiter.CountRequest{Limit: 1}, counted: limiter.CountResult{Used: 2, End: 3, Reset: 4, Full: true, Replayed: true}},
		{kind: call.Count, count: limiter.CountRequest{Throttle: limiter.Throttle{Capacity: 1, Count: 1, Period: 1}}, counted: limiter.CountResult{End: 3, Reset: 4, Over: true, Full: true, Replayed: true, Remaining: 5, RetryAfter: 6}},
	} {
		c.request.ID = "i"
		result := inBytes(t, s, make([]*pb.Result, 1), c)[0]
		fields := result.ProtoReflect()
		kind := fields.WhichOneof(fields.Descriptor().Oneofs().Get(0))
		answer := fields.Get(kind).Message()
		answers[kind.Name()] = true
		var absent []protoreflect.Name
		switch c.kind {
		case call.Check:
			absent = append(absent, "granted_output_tokens", "bound_output")
		case call.Reserve:
			absent = append(absent, "retry_after")
		case call.Admin:
			absent = append(absent, "state") // the other answer
		case call.Count:
			if c.count.Throttle.IsSet() {
				absent = append(absent, "limit", "used") // of a counter
			} else {
				absent = append(absent, "limited", "remaining", "retry_after_nanos") // of a throttle
			}
		}
		fieldtest.Set(t, c.kind.String(), answer.Interface(), absent, marshal(t, answer.Interface()))
		if limits := answer.Descriptor().Fields().ByName("limits"); limits != nil {
			limit := answer.Get(limits).List().Get(0).Message().Interface()
			fieldtest.Set(t, c.kind.String(), limit, nil, marshal(t, limit))
		}
	}
	kinds := (&pb.Result{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields()
	for i := range kinds.Len() {
		if kind := kinds.Get(i); !answers[kind.Name()] {
			t.Errorf("no call is answered with %s", kind.FullName())
		}
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// Results that are there already, errors among them, keep their places.
func TestDecide(t *testing.T) {
	n := newNode(t)
	items := []*pb.Item{
		item(&pb.CheckRequest{Key: "a", InputTokens: 6_000, RequestId: "1"}),
		item(&pb.CheckRequest{Key: "b//c"}),
		item(&pb.ReserveRequest{Key: "r", RequestId: "2", MaxOutputTokens: new(int64(20))}),
		item(&pb.CheckRequest{Key: "elsewhere", RequestId: "4"}),
		item(&pb.SettleRequest{Key: "r", RequestId: "2", OutputTokens: new(int64(5)), Final: new(false)}),
		item(&pb.CancelRequest{Key: "r", RequestId: "2"}),
		item(&pb.CancelRequest{Key: "r", RequestId: "never"}),
		item(&pb.PeekRequest{Key: "p"}),
		item(&pb.CheckRequest{Key: "a", InputTokens: 1, RequestId: "1"}),
		nil,
	}
	results := n.NewResults(len(items))
	results.Set(3, &pb.Result{Result: &pb.Result_Redirect{Redirect: &pb.Redirect{Owner: "node2"}}})
	n.Decide(callsOf(items...), results)
	results.Set(6, &pb.Result{Result: &pb.Result_Settlement{Settlement: &pb.Settlement{RequestId: "never", Status: 3}}})
	var a pb.Answers
	if err := proto.Unmarshal(results.Append(nil), &a); err != nil {
		t.Fatal(err)
	}
	results.Release()
	want := []string{
		"1 allowed", "InvalidArgument key", "2 allowed", "redirect to node2", "2 held", "2 cancelled",
		"never cancelled", "4 limits", "AlreadyExists", "InvalidArgument call",
	}
	if diff := cmp.Diff(want, briefs(a.Results)); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
}

// What cannot be encoded costs the others nothing.
func TestAppendResult(t *testing.T) {
	results := []*pb.Result{
		{Result: &pb.Result_Error{Error: &pb.Error{Code: int32(codes.Internal), Message: "no\xfftext"}}},
		{Result: &pb.Result_Error{Error: &pb.Error{Code: int32(codes.Internal), Message: strings.Repeat("long", 5000)}}},
	}
	got := inBytes(t, &Service{}, results, nil, nil)
	if len(got) != 2 || got[0].Result != nil || len(got[1].GetError().GetMessage()) != 20_000 {
		t.Errorf("results = %v", got)
	}
}
