// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/codec/fieldtest"
	"github.com/bucketring/bucketring/rpc/pb"
)

func encodedDefinition(t *testing.T, d *pb.LimitDefinition) []byte {
	t.Helper()
	wire, err := proto.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// A stream that brings a definition which is out of order, or more than there may be, is
// broken. Those that came before stay.
func TestAddDefinitions(t *testing.T) {
	var known Definitions
	for n := range uint32(MaxDefinitions) {
		before := known
		for _, number := range []uint32{0, n, n + 2, math.MaxUint32} {
			if _, err := known.Add(encodedDefinition(t, &pb.LimitDefinition{Number: number})); err == nil {
				t.Fatalf("definition %d after %d is accepted", number, n)
			}
		}
		var err error
		if known, err = known.Add(encodedDefinition(t, &pb.LimitDefinition{Number: n + 1, Name: fmt.Sprint(n + 1)})); err != nil {
			t.Fatal(err)
		}
		if len(before) != int(n) || n > 0 && before[n-1].Name != fmt.Sprint(n) {
			t.Fatalf("definitions that came before %d have changed", n+1)
		}
	}
	if _, err := known.Add(encodedDefinition(t, &pb.LimitDefinition{Number: MaxDefinitions + 1})); err == nil {
		t.Errorf("%d definitions are accepted", MaxDefinitions+1)
	}
	for name, wire := range map[string][]byte{
		"too large": encodedDefinition(t, &pb.LimitDefinition{Number: 1, Name: strings.Repeat("x", maxDefinitionBytes)}),
		"not UTF-8": append([]byte{8, 1}, fieldtest.Wrap(&pb.LimitDefinition{}, "name", []byte("\xff"))...),
		"malformed": {8},
		"empty":     nil,
	} {
		if got, err := Definitions(nil).Add(wire); err == nil {
			t.Errorf("a definition that is %s = %v, want an error", name, got)
		}
	}
}

// What a receiver would not accept is not appended, and what is appended it accepts.
func TestAppendDefinition(t *testing.T) {
	before := []byte("before")
	for name, d := range map[string]*pb.LimitDefinition{
		"not UTF-8":          {Number: 1, Name: "\xff"},
		"dimension, as well": {Number: 1, Dimension: "\xff"},
		"algorithm, as well": {Number: 1, Algorithm: "\xff"},
		"too large":          {Number: 1, Name: strings.Repeat("x", maxDefinitionBytes)},
		"one too many":       {Number: MaxDefinitions + 1},
	} {
		if wire, ok := AppendDefinition(before, d); ok || !bytes.Equal(wire, before) {
			t.Errorf("AppendDefinition() of one that is %s = %q, %t", name, wire, ok)
		}
	}
	for _, d := range []*pb.LimitDefinition{{Number: 1}, {Number: 1, Name: strings.Repeat("x", maxDefinitionBytes-10)}} {
		wire, ok := AppendDefinition(before, d)
		var a Answers
		if err := a.Parse(wire[len(before):]); !ok || err != nil || len(a.Definitions) != 1 {
			t.Fatalf("AppendDefinition() = %q, %t, parsed with %v", wire, ok, err)
		}
		if _, err := Definitions(nil).Add(a.Definitions[0]); err != nil {
			t.Errorf("Add() = %v", err)
		}
	}
}

// Every field of a definition and of values makes a difference to the limit.
func TestDefinedFields(t *testing.T) {
	describe := func(definition, values []byte) string {
		known, err := Definitions(nil).Add(definition)
		if err != nil {
			return err.Error()
		}
		e := Encoded{Result: fieldtest.Wrap(&pb.Result{}, "values", values), Definitions: known, Key: "k/l"}
		r := &pb.Result{}
		if err := e.Message(r); err == nil {
			t.Fatal("values without an answer were decoded")
		}
		decision := encode(t, &pb.Result{Result: &pb.Result_Decision{Decision: &pb.Decision{}}})
		e.Result = append(decision, e.Result...)
		if err := e.Message(r); err != nil {
			return err.Error()
		}
		return r.String()
	}
	definition, values := encode(t, fieldtest.Full((&pb.LimitDefinition{}).ProtoReflect().Descriptor())), encode(t, fieldtest.Full((&pb.LimitValues{}).ProtoReflect().Descriptor()))
	fieldtest.Carried(t, "a limit", &pb.LimitDefinition{}, nil, func(wire []byte) string {
		v := &pb.LimitValues{} // whose window is that of the definition
		if err := proto.Unmarshal(values, v); err != nil {
			t.Fatal(err)
		}
		v.WindowNanos = 0
		return describe(wire, encode(t, v))
	})
	fieldtest.Carried(t, "a limit", &pb.LimitValues{}, nil, func(wire []byte) string { return describe(definition, wire) })
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// A scope is whole segments of the key.
func TestScopeBytes(t *testing.T) {
	for _, tt := range []struct {
		key, scope string
		want       int // -1: none
	}{
		{"acme/alice", "acme", 4},
		{"acme/alice", "acme/alice", 10},
		{"acme/alice", "acm", -1},
		{"acme/alice", "acme/", -1},
		{"acme/alice", "acme/alice/x", -1},
		{"acme/alice", "other", -1},
		{"acme/alice", "", -1},
		{"", "", 0},
	} {
		if n, ok := ScopeBytes(tt.key, tt.scope); ok != (tt.want >= 0) || ok && int(n) != tt.want {
			t.Errorf("ScopeBytes(%q, %q) = %d, %t, want %d", tt.key, tt.scope, n, ok, tt.want)
		}
	}
}

// Key of a call is that of every kind of call whose answer has limits.
func TestKeyOf(t *testing.T) {
	for _, item := range []*pb.Item{
		{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: "k"}}},
		{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{Key: "k"}}},
		{Call: &pb.Item_Settle{Settle: &pb.SettleRequest{Key: "k"}}},
		{Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: "k"}}},
		{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: "k"}}},
	} {
		if got := KeyOf(item); got != "k" {
			t.Errorf("KeyOf(%v) = %q, want k", item, got)
		}
	}
	if got := KeyOf(&pb.Item{}); got != "" {
		t.Errorf("KeyOf() of no call = %q", got)
	}
}
