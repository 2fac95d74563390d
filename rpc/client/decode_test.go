// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/internal/codec/fieldtest"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// testStrings are shared by all tests, as those of a client are by all calls.
var testStrings stringInterner

func testHints() hints { return hints{&testStrings, "acme/alice", "sent"} }

// full is a result that refers to nothing.
func full(wire []byte) codec.Encoded { return codec.Encoded{Result: wire} }

// decoded describes what each of the three kinds of calls decodes from a result.
func decoded(of codec.Encoded) (says [3]string, errs [3]error) {
	d, s, p := &decisionCall{}, &settlementCall{}, &stateCall{}
	for i, c := range []interface {
		link.Decoder
		wrapping() *envelope
	}{d, s, p} {
		e := c.wrapping()
		e.hints = testHints()
		errs[i] = c.Decode(of)
		says[i] = describe(e.outcome)
	}
	if d.outcome.answered {
		says[0] = fmt.Sprintf("%#v %v %d %t", d.answer, d.answer, d.granted, d.mayWait)
	}
	if s.outcome.answered {
		says[1] = fmt.Sprintf("%#v %v", s.answer, s.answer)
	}
	if p.outcome.answered {
		says[2] = fmt.Sprintf("%#v %v", p.answer, p.answer)
	}
	return says, errs
}

func describe(o outcome) string {
	switch {
	case o.rejected != nil:
		return fmt.Sprintf("refused %d %q %q", o.rejected.Code, o.rejected.Message, o.rejected.Field)
	case o.redirect != nil:
		return fmt.Sprintf("redirect %q %q", o.redirect.Owner, o.redirect.Address)
	}
	return "nothing"
}

// expected is decoded for a result that the generated code of protobuf has decoded.
func expected(r *pb.Result) (says [3]string) {
	other := "nothing"
	switch r := r.GetResult().(type) {
	case *pb.Result_Error:
		other = describe(outcome{rejected: r.Error})
	case *pb.Result_Redirect:
		other = describe(outcome{redirect: r.Redirect})
	}
	says = [3]string{other, other, other}
	switch r := r.GetResult().(type) {
	case *pb.Result_Decision:
		c := &decisionCall{envelope: envelope{hints: testHints()}}
		_ = c.setAnswer(r.Decision)
		says[0] = fmt.Sprintf("%#v %v %d %t", c.answer, c.answer, c.granted, c.mayWait)
	case *pb.Result_Settlement:
		c := &settlementCall{envelope: envelope{hints: testHints()}}
		_ = c.setAnswer(r.Settlement)
		says[1] = fmt.Sprintf("%#v %v", c.answer, c.answer)
	case *pb.Result_Limits:
		c := &stateCall{envelope: envelope{hints: testHints()}}
		_ = c.setAnswer(r.Limits)
		says[2] = fmt.Sprintf("%#v %v", c.answer, c.answer)
	}
	return says
}

// sameAsProtobuf compares what is decoded from any bytes. The generated code of
// vtprotobuf accepts malformed bytes that protobuf rejects, but no text that is not UTF-8
// gets through.
func sameAsProtobuf(t interface {
	Helper()
	Errorf(string, ...any)
}, e codec.Encoded,
) {
	t.Helper()
	r, wire := &pb.Result{}, e.Result
	err := e.Message(r)
	says, errs := decoded(e)
	if err != nil {
		lenient := new(pb.Result).UnmarshalVTUnsafe(slices.Clone(wire)) == nil && proto.Unmarshal(wire, &pb.Result{}) != nil
		for i := range errs {
			if errs[i] == nil && (!lenient || !utf8.ValidString(says[i])) {
				t.Errorf("%x: protobuf says %v, decoder %d says %s", wire, err, i, says[i])
			}
		}
		return
	}
	want := expected(r)
	for i := range errs {
		if errs[i] != nil || says[i] != want[i] {
			t.Errorf("%x: decoder %d (-protobuf +decoder): %v\n%s", wire, i, errs[i], cmp.Diff(want[i], says[i]))
		}
	}
}

// anyMessage fills m with anything.
func anyMessage(t *rapid.T, m protoreflect.Message) {
	text := rapid.OneOf(rapid.SampledFrom([]string{"acme", "acme/alice", "sent", "tokens"}), rapid.String())
	number := rapid.OneOf(rapid.SampledFrom([]int64{0, 1, 127, 128, -1, math.MaxInt64, math.MinInt64}), rapid.Int64())
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if rapid.IntRange(0, 3).Draw(t, string(f.Name())) == 0 {
			continue
		}
		switch {
		case f.IsList():
			for range rapid.IntRange(0, 3).Draw(t, "length") {
				e := m.Mutable(f).List().AppendMutable()
				anyMessage(t, e.Message())
			}
		case f.Message() != nil:
			if f.ContainingOneof() == nil {
				anyMessage(t, m.Mutable(f).Message())
			}
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(text.Draw(t, "text")))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool")))
		case f.Kind() == protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32Range(-1, 9).Draw(t, "enum"))))
		case f.Kind() == protoreflect.Int32Kind:
			m.Set(f, protoreflect.ValueOfInt32(rapid.OneOf(rapid.Int32Range(-1, 4), rapid.Int32()).Draw(t, "int32")))
		case f.Kind() == protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(number.Draw(t, "int64")))
		case f.Kind() == protoreflect.Uint64Kind:
			m.Set(f, protoreflect.ValueOfUint64(uint64(number.Draw(t, "uint64"))))
		default:
			t.Fatalf("%s: a kind of field that is new", f.FullName())
		}
	}
}

func anyResult(t *rapid.T) *pb.Result {
	r := &pb.Result{Term: 7}
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0, 1:
		r.Result = &pb.Result_Decision{Decision: &pb.Decision{}}
		anyMessage(t, r.GetDecision().ProtoReflect())
	case 2:
		r.Result = &pb.Result_Settlement{Settlement: &pb.Settlement{}}
		anyMessage(t, r.GetSettlement().ProtoReflect())
	case 3:
		r.Result = &pb.Result_Limits{Limits: &pb.PeekResponse{}}
		anyMessage(t, r.GetLimits().ProtoReflect())
	case 4:
		r.Result = &pb.Result_Error{Error: &pb.Error{}}
		anyMessage(t, r.GetError().ProtoReflect())
	case 5:
		r.Result = &pb.Result_Redirect{Redirect: &pb.Redirect{}}
		anyMessage(t, r.GetRedirect().ProtoReflect())
	}
	return r
}

func decodesAsProtobuf(t *rapid.T) {
	var wire []byte
	for range rapid.IntRange(1, 2).Draw(t, "parts") { // more than one is one
		b, err := proto.Marshal(anyResult(t))
		if err != nil {
			t.Fatal(err)
		}
		wire = append(wire, b...)
	}
	sameAsProtobuf(t, full(wire))
	// Broken in a place, or cut off.
	for range 4 {
		garbled := append([]byte(nil), wire...)
		if len(garbled) > 0 {
			garbled[rapid.IntRange(0, len(garbled)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			sameAsProtobuf(t, full(garbled))
			sameAsProtobuf(t, full(garbled[:rapid.IntRange(0, len(garbled)).Draw(t, "end")]))
		}
	}
}

// What is decoded is what the generated code of protobuf decodes.
func TestDecode(t *testing.T) { rapid.Check(t, decodesAsProtobuf) }

// So it is for any bytes.
func FuzzDecode(f *testing.F) {
	f.Add(typicalResult(4))
	for in, m := range map[protoreflect.Name]proto.Message{"decision": &pb.Decision{}, "settlement": &pb.Settlement{}, "limits": &pb.PeekResponse{}} {
		wire, _ := proto.Marshal(fieldtest.Full(m.ProtoReflect().Descriptor()))
		f.Add(fieldtest.Wrap(&pb.Result{}, in, wire))
	}
	counted, _ := proto.Marshal(&pb.Result{Result: &pb.Result_Counted{Counted: &pb.Counted{Used: 1}}})
	f.Add(append(typicalResult(1), counted...)) // the last one is the one that is there
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07})
	f.Add([]byte{0xfb, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, wire []byte) { sameAsProtobuf(t, full(wire)) })
}

// Every field of an answer is in what callers get.
func TestDecodeEveryField(t *testing.T) {
	answers := []proto.Message{&pb.Decision{}, &pb.Settlement{}, &pb.PeekResponse{}}
	for i, in := range []protoreflect.Name{"decision", "settlement", "limits"} {
		read := func(wire []byte) string {
			wire = fieldtest.Wrap(&pb.Result{}, in, wire)
			sameAsProtobuf(t, full(wire))
			says, errs := decoded(full(wire))
			if errs[i] != nil {
				t.Fatal(errs[i])
			}
			return says[i]
		}
		name := fmt.Sprintf("the client's %s", in)
		fieldtest.Carried(t, name, answers[i], nil, read)
		fieldtest.Carried(t, name, &pb.LimitState{}, nil, func(wire []byte) string {
			return read(fieldtest.Wrap(answers[i], "limits", wire))
		})
	}
}

// Bytes that promise more than there is take no memory for it, and no text that is not
// UTF-8 is decoded.
func TestDecodeHostile(t *testing.T) {
	number := func(m proto.Message, field protoreflect.Name) protowire.Number {
		return m.ProtoReflect().Descriptor().Fields().ByName(field).Number()
	}
	text := func(m proto.Message, field protoreflect.Name, b string) []byte {
		return fieldtest.Wrap(m, field, []byte(b))
	}
	result := func(decision []byte) []byte { return fieldtest.Wrap(&pb.Result{}, "decision", decision) }
	limit := func(b []byte) []byte { return fieldtest.Wrap(&pb.Decision{}, "limits", b) }
	tag := protowire.AppendTag(nil, number(&pb.Result{}, "decision"), protowire.BytesType)
	for name, wire := range map[string][]byte{
		"long":                    protowire.AppendVarint(slices.Clone(tag), 1<<62),
		"negative":                protowire.AppendVarint(slices.Clone(tag), math.MaxUint64),
		"limits":                  result(bytes.Repeat(limit(nil), 4097)),
		"large":                   result(text(&pb.Decision{}, "tier", strings.Repeat("x", 256<<10))),
		"not UTF-8":               result(text(&pb.Decision{}, "tier", "\xff")),
		"not UTF-8, the id":       result(text(&pb.Decision{}, "request_id", "\xff")),
		"not UTF-8, a limit":      result(limit(text(&pb.LimitState{}, "name", "\xff"))),
		"not UTF-8, its scope":    result(limit(text(&pb.LimitState{}, "scope", "\xff"))),
		"not UTF-8, a settlement": fieldtest.Wrap(&pb.Result{}, "settlement", text(&pb.Settlement{}, "tier", "\xff")),
		"number":                  {0xf8, 0xff, 0xff, 0xff, 0x1f, 0},
		"end of a group":          {0x0c},
	} {
		c := &decisionCall{envelope: envelope{hints: testHints()}}
		if err := c.Decode(full(wire)); err == nil {
			t.Errorf("%s: Decode() = nil, want an error", name)
		}
	}
	// A message in many parts.
	replayed := protowire.AppendVarint(protowire.AppendTag(nil, number(&pb.Decision{}, "replayed"), protowire.VarintType), 1)
	c := &decisionCall{envelope: envelope{hints: testHints()}}
	if err := c.Decode(full(bytes.Repeat(result(replayed), 1<<15))); err != nil || !c.answer.Replayed {
		t.Errorf("Decode() = %v, %v", c.answer, err)
	}
}

// What was decoded stays as it is when the bytes are overwritten and the next answer is
// decoded.
func TestDecodedAnswersKeepNothingOfTheWire(t *testing.T) {
	wire := typicalResult(4)
	c := &decisionCall{envelope: envelope{hints: hints{strings: &stringInterner{}}}}
	if err := c.Decode(full(wire)); err != nil {
		t.Fatal(err)
	}
	first, before := c.answer, fmt.Sprintf("%#v", c.answer)
	for i := range wire {
		wire[i] = 'x'
	}
	_ = c.Decode(full(typicalResult(1)))
	if after := fmt.Sprintf("%#v", first); after != before {
		t.Errorf("answer = %s, want %s", after, before)
	}
	if len(c.answer.Limits) != 1 {
		t.Errorf("%d limits, want that of the second answer", len(c.answer.Limits))
	}
}

// typicalResult is what a check of some limits is answered.
func typicalResult(limits int) []byte {
	d := &pb.Decision{
		Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: "sent", Tier: "free", Binding: new(int32(0)),
		PolicyVersion: "0123456789abcdef", Owner: "node-1", Route: pb.Route_ROUTE_LOCAL,
	}
	for i := range limits {
		d.Limits = append(d.Limits, &pb.LimitState{
			Name: fmt.Sprintf("limit-%d", i), Dimension: "tokens", Scope: "acme/alice", Algorithm: "token_bucket",
			Limit: 1_000_000, Capacity: 1_000_000, Remaining: 999_000, Cost: 1000,
			ResetAt: timestamppb.New(time.Unix(1_800_000_000, 123_456_789)), Window: durationpb.New(time.Minute),
		})
	}
	wire, err := proto.Marshal(&pb.Result{Result: &pb.Result_Decision{Decision: d}, Term: 3})
	if err != nil {
		panic(err)
	}
	return wire
}

// typical are the two forms of a typical result.
func typical(tb testing.TB) map[string]codec.Encoded {
	r := &pb.Result{}
	if err := proto.Unmarshal(typicalResult(4), r); err != nil {
		tb.Fatal(err)
	}
	d := definer{key: testHints().key}
	return map[string]codec.Encoded{"full": full(typicalResult(4)), "defined": d.encode(tb, r)}
}

// An answer takes two allocations: its limits and, while it is decoded, the index of the
// binding one.
func TestDecodeAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	for form, e := range typical(t) {
		c := &decisionCall{envelope: envelope{hints: testHints()}}
		got := testing.AllocsPerRun(200, func() {
			if err := c.Decode(e); err != nil {
				t.Fatal(err)
			}
		})
		if got != 2 {
			t.Errorf("Decode() of the %s form allocates %v times, want 2", form, got)
		}
	}
}

// BenchmarkDecode is an answer with 4 limits in both forms.
func BenchmarkDecode(b *testing.B) {
	for form, e := range typical(b) {
		b.Run(form, func(b *testing.B) {
			c := &decisionCall{envelope: envelope{hints: testHints()}}
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Decode(e); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(e.Result)), "B-received/op")
		})
	}
}

// BenchmarkDecodeMessage is BenchmarkDecode for a member, which passes the answer on.
func BenchmarkDecodeMessage(b *testing.B) {
	for form, e := range typical(b) {
		b.Run(form, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := e.Message(&pb.Result{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Strings that are frequent stay, however many others there are.
func TestFrequentStringsStay(t *testing.T) {
	w := new(stringInterner)
	get := func(i int) string {
		s, err := w.intern(fmt.Sprintf("word-%d", i))
		if want := fmt.Sprintf("word-%d", i); err != nil || s != want {
			t.Fatalf("intern(%s) = %q, %v", want, s, err)
		}
		return s
	}
	for i := range 100_000 {
		get(i)
	}
	for range 20 { // until each has its slot
		for i := range 20 {
			get(i)
		}
	}
	words := make([]string, 20)
	for i := range words {
		words[i] = fmt.Sprintf("word-%d", i)
	}
	got := testing.AllocsPerRun(100, func() {
		for _, s := range words {
			_, _ = w.intern(s)
		}
	})
	if got > 4 { // some may share both slots
		t.Errorf("20 strings are copied again %v times", got)
	}
	long := strings.Repeat("x", maxInternedBytes+1)
	if s, err := w.intern(long); err != nil || s != long {
		t.Errorf("intern() = %q, %v", s, err)
	}
}
