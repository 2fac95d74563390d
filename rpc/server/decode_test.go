// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/pb"
)

// decodable are the messages that decodeRequest decodes.
func decodable() []proto.Message {
	return []proto.Message{
		&pb.CheckRequest{}, &pb.ReserveRequest{}, &pb.SettleRequest{}, &pb.CancelRequest{}, &pb.PeekRequest{}, &pb.BatchRequest{}, &pb.Batch{},
	}
}

// set gives a field of m a value. A message gets its first field.
func set(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	switch {
	case f.IsMap():
		m.Mutable(f).Map().Set(protoreflect.ValueOfString("images").MapKey(), protoreflect.ValueOfInt64(3))
	case f.IsList() && f.Message() != nil:
		m.Mutable(f).List().AppendMutable()
	case f.Message() != nil:
		set(m.Mutable(f).Message(), f.Message().Fields().Get(0))
	case f.Kind() == protoreflect.StringKind:
		m.Set(f, protoreflect.ValueOfString("täxt-"+string(f.Name())))
	case f.Kind() == protoreflect.BytesKind:
		m.Set(f, protoreflect.ValueOfBytes([]byte{0xff, 1}))
	case f.Kind() == protoreflect.BoolKind:
		m.Set(f, protoreflect.ValueOfBool(true))
	case f.Kind() == protoreflect.EnumKind:
		m.Set(f, protoreflect.ValueOfEnum(-2))
	case f.Kind() == protoreflect.Int64Kind:
		m.Set(f, protoreflect.ValueOfInt64(-5-int64(f.Number())))
	default:
		m.Set(f, protoreflect.ValueOfUint64(1<<63+uint64(f.Number())))
	}
}

// full returns a message of m's type with a value in every field.
func full(m proto.Message) proto.Message {
	all := m.ProtoReflect().New()
	for i := range all.Descriptor().Fields().Len() {
		set(all, all.Descriptor().Fields().Get(i))
	}
	return all.Interface()
}

// held fails if decodeRequest decodes something else than protobuf's decoder does.
func held(t *testing.T, encoded []byte, as proto.Message) (decoded bool) {
	t.Helper()
	got, want := as.ProtoReflect().New().Interface(), as.ProtoReflect().New().Interface()
	given := bytes.Clone(encoded)
	if !decodeRequest(given, got) {
		return false
	}
	for i := range given {
		given[i] ^= 0xff // the message must not point into it
	}
	if err := proto.Unmarshal(encoded, want); err != nil {
		t.Errorf("%T %x is decoded to %v, and protobuf's decoder says %v", as, encoded, got, err)
	} else if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("%T %x (-want +got):\n%s", as, encoded, d)
	}
	return true
}

// TestDecodeEveryField: each field of a request is decoded, or left to protobuf's decoder if
// it is listed here.
func TestDecodeEveryField(t *testing.T) {
	left := map[protoreflect.FullName]bool{}
	for _, name := range []protoreflect.FullName{
		"CheckRequest.costs", "CheckRequest.max_wait", "ReserveRequest.costs", "ReserveRequest.max_wait", "SettleRequest.costs", "SettleRequest.reservation",
	} {
		left["bucketring.v1."+name] = true
	}
	for _, m := range decodable() {
		for i := range m.ProtoReflect().Descriptor().Fields().Len() {
			one, f := m.ProtoReflect().New(), m.ProtoReflect().Descriptor().Fields().Get(i)
			set(one, f)
			encoded, err := proto.Marshal(one.Interface())
			if err != nil {
				t.Fatal(err)
			}
			if got := held(t, encoded, m); got == left[f.FullName()] {
				t.Errorf("%s is decoded: %v, want %v", f.FullName(), got, !got)
			}
		}
	}
}

// TestDecodeItems: items of every kind are decoded as protobuf's decoder does, side by side.
func TestDecodeItems(t *testing.T) {
	batch := &pb.BatchRequest{Items: []*pb.Item{{}, {Term: 5}, {Call: &pb.Item_Check{}}, {Call: &pb.Item_Check{Check: &pb.CheckRequest{}}}}}
	item := (&pb.Item{}).ProtoReflect()
	for i := range 3 * itemsAtOnce {
		one := item.New()
		set(one, item.Descriptor().Fields().Get(i%item.Descriptor().Fields().Len()))
		batch.Items = append(batch.Items, one.Interface().(*pb.Item), benchItem(i))
	}
	encoded, err := proto.Marshal(batch)
	if err != nil {
		t.Fatal(err)
	}
	if !held(t, encoded, batch) {
		t.Error("a batch of items of every kind is left to protobuf's decoder")
	}
	// The check of an item comes twice, or another call after it: protobuf merges the former.
	check, _ := proto.Marshal(&pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: "a"}}})
	again, _ := proto.Marshal(&pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Model: "m"}}})
	cancel, _ := proto.Marshal(&pb.Item{Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: "a"}}})
	for _, body := range [][]byte{append(bytes.Clone(check), again...), append(bytes.Clone(check), cancel...), append(bytes.Clone(cancel), check...)} {
		if !held(t, protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), body), batch) {
			t.Errorf("an item %x is left to protobuf's decoder", body)
		}
	}
}

// FuzzDecode: whatever is decoded, protobuf's decoder decodes to the same.
func FuzzDecode(f *testing.F) {
	for i, m := range decodable() {
		encoded, err := proto.Marshal(full(m))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), encoded)
		f.Add(uint8(i), []byte("\x0a\x02\xff\xfe"))                                     // a text that is not UTF-8
		f.Add(uint8(i), []byte("\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))         // a number of 70 bits
		f.Add(uint8(i), []byte("\x0d\x01\x00\x00\x00"))                                 // another type
		f.Add(uint8(i), []byte("\x0a\x01k\x12\x01t\x0a\x01l\x20\x05\x20\x00\x28\x01"))  // twice
		f.Add(uint8(i), []byte("\x0a\x05\x0a\x01k\x38\x05\x0a\x02\x0a\x00\x0a\x00"))    // items
		f.Add(uint8(i), []byte("\x08\x01\x11\x01\x02\x03\x04\x05\x06\x07\x08\x1a\x00")) // of a stream
		f.Add(uint8(i), []byte("\xfa\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\xff\xfe")) // a number that no field has
	}
	f.Fuzz(func(t *testing.T, as uint8, encoded []byte) {
		held(t, encoded, decodable()[int(as)%len(decodable())])
	})
}
