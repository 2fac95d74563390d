// SPDX-License-Identifier: Apache-2.0

package client

import (
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/internal/codec/fieldtest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// definer is the sender's end of a stream, in the plainest way: it refers to definitions
// where it can.
type definer struct {
	key     string // of the calls
	numbers map[string]uint32
	known   codec.Definitions
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// encode returns r as the receiver has it.
func (d *definer) encode(t fataler, r *pb.Result) codec.Encoded {
	t.Helper()
	r = proto.CloneOf(r)
	var in *[]*pb.LimitState
	switch a := r.GetResult().(type) {
	case *pb.Result_Decision:
		in = &a.Decision.Limits
	case *pb.Result_Settlement:
		in = &a.Settlement.Limits
	case *pb.Result_Limits:
		in = &a.Limits.Limits
	}
	if in != nil {
		if values, ok := d.values(t, *in); ok {
			*in, r.Values = nil, values
		}
	}
	wire, err := proto.Marshal(r)
	if err != nil {
		t.Fatalf("Marshal() = %v", err)
	}
	return codec.Encoded{Result: wire, Definitions: d.known, Key: d.key}
}

func (d *definer) values(t fataler, limits []*pb.LimitState) (values []*pb.LimitValues, ok bool) {
	t.Helper()
	for _, l := range limits {
		scope, ok := codec.ScopeBytes(d.key, l.GetScope())
		if !ok {
			return nil, false
		}
		values = append(values, &pb.LimitValues{
			Definition: d.define(t, l), ScopeBytes: scope, Remaining: l.Remaining, Debt: l.Debt, Cost: l.Cost,
			ResetNanos: l.GetResetAt().GetSeconds()*1e9 + int64(l.GetResetAt().GetNanos()),
			Exceeded:   l.Exceeded, PerModel: l.PerModel, Headroom: l.Headroom, Credit: l.Credit,
			WindowNanos: int64(l.GetWindow().AsDuration()),
		})
	}
	return values, true
}

// define returns the number of the definition of l.
func (d *definer) define(t fataler, l *pb.LimitState) uint32 {
	t.Helper()
	p := &pb.LimitDefinition{
		Name: l.Name, Dimension: l.Dimension, Algorithm: l.Algorithm, Limit: l.Limit, Capacity: l.Capacity,
		MaxWaitNanos: int64(l.GetMaxWait().AsDuration()), Shadow: l.Shadow, Hidden: l.Hidden,
	}
	identity, err := proto.Marshal(p)
	if err != nil {
		t.Fatalf("Marshal() = %v", err)
	}
	if n := d.numbers[string(identity)]; n != 0 {
		return n
	}
	if d.numbers == nil {
		d.numbers = map[string]uint32{}
	}
	p.Number = uint32(len(d.numbers)) + 1
	d.numbers[string(identity)] = p.Number
	wire, ok := codec.AppendDefinition(nil, p)
	var a codec.Answers
	if err := a.Parse(wire); !ok || err != nil || len(a.Definitions) != 1 {
		t.Fatalf("AppendDefinition(%v) = %t, parsed with %v", p, ok, err)
	}
	if d.known, err = d.known.Add(a.Definitions[0]); err != nil {
		t.Fatalf("Add() = %v", err)
	}
	return p.Number
}

// regular makes limits such that both forms can say the same: times and durations are those
// of nanoseconds.
func regular(t *rapid.T, r *pb.Result) {
	length := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, math.MaxInt64), rapid.SampledFrom([]int64{1, int64(time.Minute)}))
	for _, l := range slices.Concat(r.GetDecision().GetLimits(), r.GetSettlement().GetLimits(), r.GetLimits().GetLimits()) {
		l.ResetAt, l.Window, l.MaxWait = nil, nil, nil
		if n := length.Draw(t, "reset"); n != 0 {
			l.ResetAt = timestamppb.New(time.Unix(0, n))
		}
		if n := length.Draw(t, "window"); n != 0 {
			l.Window = durationpb.New(time.Duration(n))
		}
		if n := length.Draw(t, "max wait"); n != 0 {
			l.MaxWait = durationpb.New(time.Duration(n))
		}
		if rapid.IntRange(0, 9).Draw(t, "scope") > 0 {
			l.Scope = rapid.SampledFrom([]string{"acme", "acme/alice"}).Draw(t, "scope")
		}
	}
}

// What is decoded from results that refer to definitions is what is decoded from the full
// form, whichever results came before on the stream.
func TestDecodeDefined(t *testing.T) {
	defined := 0
	rapid.Check(t, func(t *rapid.T) {
		d := definer{key: testHints().key}
		for range rapid.IntRange(1, 4).Draw(t, "results") {
			r := anyResult(t)
			r.Values = nil
			regular(t, r)
			wire, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			e := d.encode(t, r)
			if len(e.Definitions) > 0 {
				defined++
			}
			sameAsProtobuf(t, e)
			want, wantErrs := decoded(full(wire))
			got, errs := decoded(e)
			for i := range want {
				if got[i] != want[i] || errs[i] != nil || wantErrs[i] != nil {
					t.Errorf("decoder %d: %v, %v\n got %s\nwant %s", i, errs[i], wantErrs[i], got[i], want[i])
				}
			}
		}
	})
	if defined == 0 {
		t.Error("no result referred to a definition")
	}
}

// Whatever the bytes of answers are, a client and a member decode the same, or neither does.
func FuzzDecodeDefined(f *testing.F) {
	for _, m := range []proto.Message{&pb.Decision{}, &pb.Settlement{}} {
		r := &pb.Result{Term: 3}
		_ = proto.Unmarshal(typicalResult(2), r)
		d := definer{key: "acme/alice"}
		e := d.encode(f, r)
		a := &pb.Answers{Sequence: 1}
		for i := range d.known {
			k := &d.known[i]
			a.Definitions = append(a.Definitions, &pb.LimitDefinition{
				Number: uint32(i) + 1, Name: k.Name, Dimension: k.Dimension, Algorithm: k.Algorithm, Limit: k.Limit, Capacity: k.Capacity,
			})
		}
		wire, _ := proto.Marshal(a)
		wire = append(wire, fieldtest.Wrap(&pb.Answers{}, "results", e.Result)...)
		full, _ := proto.Marshal(fieldtest.Full(m.ProtoReflect().Descriptor()))
		f.Add(append(wire, fieldtest.Wrap(&pb.Answers{}, "results", full)...), "acme/alice")
		f.Add(wire, "acme")
	}
	f.Fuzz(func(t *testing.T, wire []byte, key string) {
		var a codec.Answers
		if a.Parse(wire) != nil {
			return
		}
		var known codec.Definitions
		for _, d := range a.Definitions {
			var err error
			if known, err = known.Add(d); err != nil {
				return // the stream is broken
			}
		}
		for _, r := range a.Results {
			sameAsProtobuf(t, codec.Encoded{Result: r, Definitions: known, Key: key})
		}
	})
}

// A result that refers to what is not there is not decoded, and nor is one with limits in
// both forms.
func TestDecodeNonsense(t *testing.T) {
	d := definer{key: "acme/alice"}
	r := &pb.Result{}
	if err := proto.Unmarshal(typicalResult(2), r); err != nil {
		t.Fatal(err)
	}
	good := d.encode(t, r)
	change := func(f func(*pb.Result)) codec.Encoded {
		m := &pb.Result{}
		if err := proto.Unmarshal(good.Result, m); err != nil {
			t.Fatal(err)
		}
		f(m)
		wire, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return codec.Encoded{Result: wire, Definitions: good.Definitions, Key: good.Key}
	}
	if says, errs := decoded(change(func(*pb.Result) {})); errs[0] != nil {
		t.Fatalf("the unchanged result = %s, %v", says[0], errs[0])
	}
	for name, e := range map[string]codec.Encoded{
		"no definition":      change(func(r *pb.Result) { r.Values[1].Definition = 0 }),
		"unknown definition": change(func(r *pb.Result) { r.Values[1].Definition = uint32(len(good.Definitions)) + 1 }),
		"huge definition":    change(func(r *pb.Result) { r.Values[0].Definition = math.MaxUint32 }),
		"scope in a segment": change(func(r *pb.Result) { r.Values[0].ScopeBytes = 3 }),
		"scope too long":     change(func(r *pb.Result) { r.Values[0].ScopeBytes = 11 }),
		"huge scope":         change(func(r *pb.Result) { r.Values[0].ScopeBytes = math.MaxUint32 }),
		"both forms":         change(func(r *pb.Result) { r.GetDecision().Limits = []*pb.LimitState{{}} }),
		"too many":           change(func(r *pb.Result) { r.Values = slices.Repeat(r.Values, 4096) }),
		"no answer": change(func(r *pb.Result) {
			r.Result = &pb.Result_Redirect{Redirect: &pb.Redirect{Owner: "b"}}
		}),
		"later definitions": {Result: good.Result, Definitions: good.Definitions[:1], Key: good.Key},
	} {
		says, errs := decoded(e)
		for i := range errs {
			if errs[i] == nil {
				t.Errorf("%s: decoder %d says %s, want an error", name, i, says[i])
			}
		}
		if err := e.Message(&pb.Result{}); err == nil {
			t.Errorf("%s: Message() = nil, want an error", name)
		}
	}
}
