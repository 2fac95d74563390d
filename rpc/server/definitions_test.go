// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/internal/codec/fieldtest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// stream is both ends of a stream of answers.
type stream struct {
	sent     Definitions
	received codec.Definitions
	values   int // limits by definitions that were received
}

// exchange returns the results of the calls as the other end has them.
func (s *stream) exchange(t interface {
	Helper()
	Fatalf(string, ...any)
}, by *Service, calls ...*scratch,
) []*pb.Result {
	t.Helper()
	wire := resultsOf(by, make([]*pb.Result, len(calls)), calls).AppendDefined(nil, &s.sent)
	var a codec.Answers
	if err := a.Parse(wire); err != nil || len(a.Results) != len(calls) {
		t.Fatalf("%d results and %v, want %d", len(a.Results), err, len(calls))
	}
	for _, d := range a.Definitions {
		var err error
		if s.received, err = s.received.Add(d); err != nil {
			t.Fatalf("Add() = %v", err)
		}
	}
	var all []*pb.Result
	for i, encoded := range a.Results {
		r, raw := &pb.Result{}, &pb.Result{}
		if err := (codec.Encoded{Result: encoded, Definitions: s.received, Key: scratchKey(calls[i])}).Message(r); err != nil {
			t.Fatalf("result %d = %v", i, err)
		}
		if err := proto.Unmarshal(encoded, raw); err != nil {
			t.Fatalf("result %d = %v", i, err)
		}
		s.values += len(raw.GetValues())
		all = append(all, r)
	}
	return all
}

func scratchKey(x *scratch) string {
	if x.kind.EndsReservation() {
		return x.used.Key
	}
	return x.request.Key
}

// policies are limits with definitions: each change makes a new one.
type policies struct {
	limits []limiter.LimitState // as they are now
	last   uint32
}

func (p *policies) reload(t *rapid.T) {
	text := rapid.SampledFrom([]string{"", "a", "tokens", strings.Repeat("long", 2000)})
	for range rapid.IntRange(1, 4).Draw(t, "changes") {
		p.last++
		l := limiter.LimitState{
			Definition: p.last, Name: text.Draw(t, "name"), Dimension: limiter.Dimension(rapid.SampledFrom([]string{"requests", "tokens"}).Draw(t, "dimension")),
			Algorithm: limiter.Algorithm(rapid.IntRange(0, 3).Draw(t, "algorithm")),
			Limit:     rapid.Int64().Draw(t, "limit"), Capacity: rapid.Int64().Draw(t, "capacity"), Window: time.Duration(rapid.Int64().Draw(t, "window")),
			Queue:  limiter.Queue{MaxWait: time.Duration(rapid.Int64().Draw(t, "max wait"))},
			Shadow: rapid.Bool().Draw(t, "shadow"), Hidden: rapid.Bool().Draw(t, "hidden"),
		}
		if n := len(p.limits); n > 0 && rapid.Bool().Draw(t, "replaces") {
			p.limits[rapid.IntRange(0, n-1).Draw(t, "which")] = l
		} else {
			p.limits = append(p.limits, l)
		}
	}
}

// decide makes x a decision about limits in force.
func (p *policies) decide(t *rapid.T, x *scratch) {
	x.request.Key, x.used.Key = "acme/alice", "acme/alice"
	for i := range x.decision.Limits {
		from, l := rapid.SampledFrom(p.limits).Draw(t, "limit"), &x.decision.Limits[i]
		l.Definition, l.Name, l.Dimension, l.Algorithm = from.Definition, from.Name, from.Dimension, from.Algorithm
		l.Limit, l.Capacity, l.Queue, l.Shadow, l.Hidden = from.Limit, from.Capacity, from.Queue, from.Shadow, from.Hidden
		switch rapid.IntRange(0, 9).Draw(t, "scope") {
		case 0:
			l.Scope = rapid.SampledFrom([]string{"", "acme/al", "acme/alice/x", "other"}).Draw(t, "scope")
		case 1:
			l.Definition, l.Scope = 0, "acme"
		default:
			l.Scope = rapid.SampledFrom([]string{"acme", "acme/alice"}).Draw(t, "scope")
		}
		if rapid.IntRange(0, 3).Draw(t, "calendar") > 0 { // else a window of any length
			l.Window = from.Window
		}
	}
}

// With and without definitions, across reloads, the receiver gets the same answers.
func definedIsFull(t *rapid.T, values *int) {
	var p policies
	s, both := &Service{owner: "node1"}, stream{}
	for range rapid.IntRange(1, 6).Draw(t, "batches") {
		if len(p.limits) == 0 || rapid.Bool().Draw(t, "reloads") {
			p.reload(t)
		}
		calls := rapid.SliceOfN(rapid.Custom(anyCall), 1, 4).Draw(t, "calls")
		for _, x := range calls {
			p.decide(t, x)
		}
		full := inMessages(s, calls...)
		if diff := cmp.Diff(full, both.exchange(t, s, calls...), protocmp.Transform()); diff != "" {
			t.Fatalf("results by definitions (+) and in full (-):\n%s", diff)
		}
	}
	*values += both.values
}

func TestDefinedIsFull(t *testing.T) {
	values := 0
	rapid.Check(t, func(t *rapid.T) { definedIsFull(t, &values) })
	if values == 0 {
		t.Error("no limit was sent by a definition")
	}
}

func FuzzDefinedIsFull(f *testing.F) {
	values := 0
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) { definedIsFull(t, &values) }))
}

// typicalDecision is about limits with the definitions from first on.
func typicalDecision(first uint32, limits int) *scratch {
	x := &scratch{kind: call.Check}
	x.request.Key, x.request.ID = "acme/alice", "0123456789abcdef0123456789abcdef"
	x.decision = limiter.Decision{Outcome: limiter.Allowed, Tier: "free", PolicyVersion: 1 << 60}
	for i := range limits {
		x.decision.Limits = append(x.decision.Limits, limiter.LimitState{
			Definition: first + uint32(i), Name: fmt.Sprint("limit-", first+uint32(i)), Dimension: limiter.Tokens, Scope: "acme/alice",
			Algorithm: limiter.TokenBucket, Limit: 1_000_000, Capacity: 1_000_000, Remaining: 999_000, Cost: 1000,
			ResetAt: 1_800_000_000_123_456_789, Window: time.Minute,
		})
	}
	return x
}

// A stream has a bounded number of definitions. Answers with other limits have them in full,
// and those with known limits still do not.
func TestDefinitionsAreBounded(t *testing.T) {
	s, both := &Service{owner: "node1"}, stream{}
	for n := range uint32(2 * codec.MaxDefinitions) {
		x := typicalDecision(n+1, 2)
		want := inMessages(s, x)
		if diff := cmp.Diff(want, both.exchange(t, s, x), protocmp.Transform()); diff != "" {
			t.Fatalf("limits from %d on (-full +by definitions):\n%s", n+1, diff)
		}
	}
	if n := both.sent.count; n != codec.MaxDefinitions || len(both.received) != n || len(both.sent.slots) != 2*n {
		t.Errorf("%d definitions were sent, with %d slots, and %d received; want %d", n, len(both.sent.slots), len(both.received), codec.MaxDefinitions)
	}
	both.values = 0
	both.exchange(t, s, typicalDecision(7, 2), typicalDecision(codec.MaxDefinitions, 2))
	if both.values != 2 {
		t.Errorf("%d limits were sent by definitions, want the 2 of the answer of which all are known", both.values)
	}
	if n := len(new(Definitions).slots); n != 0 {
		t.Errorf("an unused stream has %d slots", n)
	}
}

// A definition is sent once.
func TestDefinitionsAreSentOnce(t *testing.T) {
	s := &Service{owner: "node1"}
	var sent Definitions
	sizes := [3]int{}
	for i := range sizes {
		sizes[i] = len(resultsOf(s, make([]*pb.Result, 1), []*scratch{typicalDecision(1, 4)}).AppendDefined(nil, &sent))
	}
	full := len(resultsOf(s, make([]*pb.Result, 1), []*scratch{typicalDecision(1, 4)}).Append(nil))
	if sizes[1] != sizes[2] || sizes[1] > full*6/10 || sizes[0] <= sizes[1] {
		t.Errorf("answers of %v bytes, in full %d; want all but the first at most 0.6 of that", sizes, full)
	}
}

// Every field of a limit is in its definition or in its values.
func TestEveryFieldIsDefinedOrFilled(t *testing.T) {
	s := &Service{}
	full := limiter.LimitState{
		Definition: 1, Name: "n", Dimension: "d", Scope: "s", Algorithm: 1, Limit: 1, Capacity: 2, Remaining: 3, Debt: 4, Window: 5, ResetAt: 6,
		Cost: 7, Credit: 9, Shadow: true, Exceeded: true, Hidden: true, PerModel: true, Headroom: 10, Queue: limiter.Queue{MaxWait: 11},
	}
	later := full
	later.Window = 12 // of another month
	x := &scratch{kind: call.Check, decision: limiter.Decision{Limits: []limiter.LimitState{full, later}}}
	x.request.Key = "s"
	wire := resultsOf(s, make([]*pb.Result, 1), []*scratch{x}).AppendDefined(nil, &Definitions{})
	var a pb.Answers
	if err := proto.Unmarshal(wire, &a); err != nil {
		t.Fatal(err)
	}
	if len(a.Definitions) != 1 || len(a.Results[0].Values) != 2 || a.Results[0].GetDecision().GetLimits() != nil {
		t.Fatalf("answers = %v", &a)
	}
	fieldtest.Set(t, "definition", &pb.LimitDefinition{}, nil, marshal(t, a.Definitions[0]))
	fieldtest.Set(t, "values", &pb.LimitValues{}, nil, marshal(t, a.Results[0].Values[1]))
	fieldtest.Set(t, "values", &pb.LimitValues{}, []protoreflect.Name{"window_nanos"}, marshal(t, a.Results[0].Values[0]))
	both := stream{}
	limits := both.exchange(t, s, x)[0].GetDecision().GetLimits()
	fieldtest.Set(t, "limit by definition", &pb.LimitState{}, nil, marshal(t, limits[0]))
}

// BenchmarkAppend is the answer to a check of 4 limits, in both forms.
func BenchmarkAppend(b *testing.B) {
	s := &Service{owner: "node1"}
	for _, form := range []string{"full", "defined"} {
		b.Run(form, func(b *testing.B) {
			r := resultsOf(s, make([]*pb.Result, 1), []*scratch{typicalDecision(1, 4)})
			encode := r.Append
			if form == "defined" {
				var to Definitions
				encode = func(wire []byte) []byte { return r.AppendDefined(wire, &to) }
			}
			wire := encode(nil)
			b.ReportAllocs()
			for b.Loop() {
				wire = encode(wire[:0])
			}
			b.ReportMetric(float64(len(wire)), "B-sent/op")
		})
	}
}
