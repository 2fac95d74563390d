// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// testWords are those of all tests together, as those of a client are.
var testWords words

func testHints() hints { return hints{&testWords, "acme/alice", "sent"} }

// all are the three kinds of calls, and what each says of a result.
func byHand(wire []byte) (says [3]string, errs [3]error) {
	d, s, p := &decisionCall{}, &settlementCall{}, &stateCall{}
	for i, c := range []interface {
		link.Decoder
		wrapping() *envelope
	}{d, s, p} {
		e := c.wrapping()
		e.hints = testHints()
		errs[i] = c.Decode(wire)
		says[i] = describe(e.outcome)
	}
	if d.outcome.answered {
		says[0] = fmt.Sprintf("%#v %d", d.answer, d.granted)
	}
	if s.outcome.answered {
		says[1] = fmt.Sprintf("%#v", s.answer)
	}
	if p.outcome.answered {
		says[2] = fmt.Sprintf("%#v", p.answer)
	}
	return says, errs
}

func describe(o outcome) string {
	switch {
	case o.refused != nil:
		return fmt.Sprintf("refused %d %q %q", o.refused.Code, o.refused.Message, o.refused.Field)
	case o.redirect != nil:
		return fmt.Sprintf("redirect %q %q", o.redirect.Owner, o.redirect.Address)
	}
	return "nothing"
}

// byMessage is byHand with the generated code.
func byMessage(r *pb.Result) (says [3]string) {
	other := "nothing"
	switch r := r.GetResult().(type) {
	case *pb.Result_Error:
		other = describe(outcome{refused: r.Error})
	case *pb.Result_Redirect:
		other = describe(outcome{redirect: r.Redirect})
	}
	says = [3]string{other, other, other}
	switch r := r.GetResult().(type) {
	case *pb.Result_Decision:
		says[0] = fmt.Sprintf("%#v %d", decision(r.Decision, testHints().sent), r.Decision.GetGrantedOutputTokens())
	case *pb.Result_Settlement:
		says[1] = fmt.Sprintf("%#v", settlement(r.Settlement))
	case *pb.Result_Limits:
		says[2] = fmt.Sprintf("%#v", state(r.Limits))
	}
	return says
}

// sameAsMessage compares what becomes of any bytes.
func sameAsMessage(t interface {
	Helper()
	Errorf(string, ...any)
}, wire []byte,
) {
	t.Helper()
	r := &pb.Result{}
	err := proto.Unmarshal(wire, r)
	says, errs := byHand(wire)
	if err != nil {
		for i := range errs {
			if errs[i] == nil {
				t.Errorf("%x: the generated code says %v, decoder %d says %s", wire, err, i, says[i])
			}
		}
		return
	}
	want := byMessage(r)
	for i := range errs {
		if errs[i] != nil || says[i] != want[i] {
			t.Errorf("%x: decoder %d (-generated code +by hand): %v\n%s", wire, i, errs[i], cmp.Diff(want[i], says[i]))
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

func sameAsGenerated(t *rapid.T) {
	var wire []byte
	for range rapid.IntRange(1, 2).Draw(t, "parts") { // more than one is one
		b, err := proto.Marshal(anyResult(t))
		if err != nil {
			t.Fatal(err)
		}
		wire = append(wire, b...)
	}
	sameAsMessage(t, wire)
	// Broken in a place, or cut off.
	for range 4 {
		garbled := append([]byte(nil), wire...)
		if len(garbled) > 0 {
			garbled[rapid.IntRange(0, len(garbled)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			sameAsMessage(t, garbled)
			sameAsMessage(t, garbled[:rapid.IntRange(0, len(garbled)).Draw(t, "end")])
		}
	}
}

// What is decoded by hand is what the generated code decodes.
func TestDecode(t *testing.T) { rapid.Check(t, sameAsGenerated) }

// So it is for any bytes.
func FuzzDecode(f *testing.F) {
	f.Add(typicalResult(4))
	for i := range fullResults() {
		wire, _ := proto.Marshal(fullResults()[i])
		f.Add(wire)
	}
	counted, _ := proto.Marshal(&pb.Result{Result: &pb.Result_Counted{Counted: &pb.Counted{Used: 1}}})
	f.Add(append(typicalResult(1), counted...)) // the last one is the one that is there
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07})
	f.Add([]byte{0xfb, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, wire []byte) { sameAsMessage(t, wire) })
}

// fullResults have every field of every answer.
func fullResults() []*pb.Result {
	limit := &pb.LimitState{}
	fill(limit.ProtoReflect(), nil)
	d, s, p := &pb.Decision{}, &pb.Settlement{}, &pb.PeekResponse{}
	for _, m := range []proto.Message{d, s, p} {
		fill(m.ProtoReflect(), limit)
	}
	*d.Binding = 0
	return []*pb.Result{
		{Result: &pb.Result_Decision{Decision: d}},
		{Result: &pb.Result_Settlement{Settlement: s}},
		{Result: &pb.Result_Limits{Limits: p}},
	}
}

// fill sets every field to something else than its zero value.
func fill(m protoreflect.Message, limit *pb.LimitState) {
	for i := range m.Descriptor().Fields().Len() {
		switch f := m.Descriptor().Fields().Get(i); {
		case f.IsList():
			m.Mutable(f).List().Append(protoreflect.ValueOfMessage(limit.ProtoReflect()))
		case f.Message() != nil && f.Message().FullName() == "google.protobuf.Duration":
			m.Set(f, protoreflect.ValueOfMessage(durationpb.New(time.Second).ProtoReflect()))
		case f.Message() != nil:
			m.Set(f, protoreflect.ValueOfMessage(timestamppb.New(time.Unix(1e9, 5)).ProtoReflect()))
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(string(f.Name())))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		case f.Kind() == protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(2))
		case f.Kind() == protoreflect.Int32Kind:
			m.Set(f, protoreflect.ValueOfInt32(int32(i)+1))
		default:
			m.Set(f, protoreflect.ValueOfInt64(int64(i)+1))
		}
	}
}

// Every field of the answers is decoded: one that is new must be, too.
func TestDecodeEveryField(t *testing.T) {
	d, s, p := &decisionCall{}, &settlementCall{}, &stateCall{}
	for i, c := range []struct {
		link.Decoder
		*envelope
		answer any
	}{{d, &d.envelope, &d.answer}, {s, &s.envelope, &s.answer}, {p, &p.envelope, &p.answer}} {
		wire, err := proto.Marshal(fullResults()[i])
		if err != nil {
			t.Fatal(err)
		}
		c.hints = testHints()
		if err := c.Decode(wire); err != nil || !c.outcome.answered {
			t.Fatalf("Decode() = %v", err)
		}
		sameAsMessage(t, wire)
		wantFull(t, reflect.ValueOf(c.answer).Elem(), fmt.Sprintf("%T", c.answer))
	}
	if d.granted == 0 {
		t.Error("granted is not decoded")
	}
	for m, want := range map[proto.Message]int{&pb.Decision{}: 12, &pb.Settlement{}: 7, &pb.PeekResponse{}: 5, &pb.LimitState{}: 13, &pb.Result{}: 7} {
		if got := m.ProtoReflect().Descriptor().Fields().Len(); got != want {
			t.Errorf("%T has %d fields, want %d: decode must know them", m, got, want)
		}
	}
}

func wantFull(t *testing.T, v reflect.Value, name string) {
	t.Helper()
	for i := range v.NumField() {
		f, what := v.Field(i), name+"."+v.Type().Field(i).Name
		switch {
		case f.IsZero():
			t.Errorf("%s is not decoded", what)
		case f.Type() == reflect.TypeFor[LimitState]():
			wantFull(t, f, what)
		case f.Type() == reflect.TypeFor[[]LimitState]():
			wantFull(t, f.Index(0), what)
		}
	}
}

// Bytes that promise more than there is take no memory for it.
func TestDecodeHostile(t *testing.T) {
	many := strings.Repeat(string([]byte{byte(text(8)), 0}), maxLimits+1)
	for name, wire := range map[string][]byte{
		"long":                protowire.AppendVarint([]byte{byte(text(1))}, 1<<62),
		"negative":            protowire.AppendVarint([]byte{byte(text(1))}, math.MaxUint64),
		"limits":              protowire.AppendString([]byte{byte(text(1))}, many),
		"not UTF-8":           {byte(text(1)), 3, byte(text(4)), 1, 0xff},
		"not UTF-8, a limit":  {byte(text(1)), 5, byte(text(8)), 3, byte(text(1)), 1, 0xff},
		"not UTF-8, its word": {byte(text(1)), 5, byte(text(8)), 3, byte(text(3)), 1, 0xff},
		"number":              {0xf8, 0xff, 0xff, 0xff, 0x1f, 0},
		"end of a group":      {0x0c},
	} {
		c := &decisionCall{envelope: envelope{hints: testHints()}}
		if err := c.Decode(wire); err == nil {
			t.Errorf("%s: Decode() = nil, want an error", name)
		}
	}
	// A message in a million parts is put together in one go.
	parts := []byte(strings.Repeat(string([]byte{byte(text(1)), 2, byte(number(12)), 1}), 1<<20))
	c := &decisionCall{envelope: envelope{hints: testHints()}}
	if err := c.Decode(parts); err != nil || !c.answer.Replayed {
		t.Errorf("Decode() = %v, %v", c.answer, err)
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

// An answer is one piece of memory: its limits.
func TestDecodeAllocates(t *testing.T) {
	wire := typicalResult(4)
	c := &decisionCall{envelope: envelope{hints: testHints()}}
	got := testing.AllocsPerRun(200, func() {
		if err := c.Decode(wire); err != nil {
			t.Fatal(err)
		}
	})
	if got != 1 {
		t.Errorf("Decode() allocates %v times, want once", got)
	}
}

func BenchmarkDecode(b *testing.B) {
	wire := typicalResult(4)
	b.Run("by=hand", func(b *testing.B) {
		c := &decisionCall{envelope: envelope{hints: testHints()}}
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Decode(wire); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("by=message", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r := &pb.Result{}
			if err := proto.Unmarshal(wire, r); err != nil {
				b.Fatal(err)
			}
			_ = decision(r.GetDecision(), "sent")
		}
	})
}

// Words that come in turns stay, and there are never more than there is room for.
func TestWordsAreKept(t *testing.T) {
	w := new(words)
	get := func(i int) string {
		s, err := w.text(fmt.Appendf(nil, "word-%d", i))
		if want := fmt.Sprintf("word-%d", i); err != nil || s != want {
			t.Fatalf("text(%s) = %q, %v", want, s, err)
		}
		return s
	}
	for i := range 100_000 {
		get(i)
	}
	for range 20 { // until they have found their places
		for i := range 20 {
			get(i)
		}
	}
	buffers := make([][]byte, 20)
	for i := range buffers {
		buffers[i] = fmt.Appendf(nil, "word-%d", i)
	}
	got := testing.AllocsPerRun(100, func() {
		for _, b := range buffers {
			_, _ = w.text(b)
		}
	})
	if got > 4 { // 20 words may meet in two places
		t.Errorf("20 words are made anew %v times", got)
	}
	long := strings.Repeat("x", maxWordBytes+1)
	if s, err := w.text([]byte(long)); err != nil || s != long {
		t.Errorf("text() = %q, %v", s, err)
	}
}
