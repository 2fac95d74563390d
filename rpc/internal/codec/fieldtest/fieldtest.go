// SPDX-License-Identifier: Apache-2.0

// Package fieldtest finds fields of answers that some code forgets: a test of the code
// fails, and names the field, when the .proto gains one.
package fieldtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// added is a field that a message does not have yet.
const added = "added_field"

// Carried checks that every field of m makes a difference to read, which is passed
// encoded messages of that type and returns what became of them. The fields in except
// must make none. It also checks that it finds a field that m does not have yet.
func Carried(t testing.TB, what string, m proto.Message, except []protoreflect.Name, read func(wire []byte) string) {
	t.Helper()
	d := withAddedField(t, m.ProtoReflect().Descriptor())
	report(t, what+" does not carry", d, except, func(f protoreflect.FieldDescriptor) bool {
		full := Full(d)
		without := proto.Clone(full)
		without.ProtoReflect().Clear(f)
		return read(marshal(t, without)) == read(marshal(t, full))
	})
}

// Set checks that wire, an encoded message of m's type, has every field but those in
// except. It also checks that it misses a field that m does not have yet.
func Set(t testing.TB, what string, m proto.Message, except []protoreflect.Name, wire []byte) {
	t.Helper()
	d := withAddedField(t, m.ProtoReflect().Descriptor())
	got := dynamicpb.NewMessage(d)
	if err := proto.Unmarshal(wire, got); err != nil {
		t.Fatal(err)
	}
	report(t, what+" does not set", d, except, func(f protoreflect.FieldDescriptor) bool { return !got.Has(f) })
}

// report checks that the missing fields of d are those in except and the added one.
func report(t testing.TB, what string, d protoreflect.MessageDescriptor, except []protoreflect.Name, missing func(protoreflect.FieldDescriptor) bool) {
	t.Helper()
	except = append([]protoreflect.Name{added}, except...)
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		switch expected := slices.Contains(except, f.Name()); {
		case missing(f) && !expected:
			t.Errorf("%s %s", what, f.FullName())
		case !missing(f) && expected:
			t.Errorf("%s %s: it does now, want it removed from the exceptions", what, f.FullName())
		}
	}
	for _, name := range except {
		if d.Fields().ByName(name) == nil {
			t.Errorf("%s has no field %s, want it removed from the exceptions", d.FullName(), name)
		}
	}
}

// Full returns a message with a value in every field, also of the messages in it:
// enumerations have their last value, optional int32s, which are indices, 0, and uint32s,
// which are numbers of definitions and lengths, 1.
func Full(d protoreflect.MessageDescriptor) proto.Message {
	m := dynamicpb.NewMessage(d)
	for i := range d.Fields().Len() {
		f := d.Fields().Get(i)
		switch {
		case f.IsList():
			m.Mutable(f).List().Append(protoreflect.ValueOfMessage(Full(f.Message()).ProtoReflect()))
		case f.Message() != nil:
			m.Set(f, protoreflect.ValueOfMessage(Full(f.Message()).ProtoReflect()))
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(string(f.Name())))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		case f.Kind() == protoreflect.EnumKind:
			values := f.Enum().Values()
			m.Set(f, protoreflect.ValueOfEnum(values.Get(values.Len()-1).Number()))
		case f.Kind() == protoreflect.Int32Kind && f.HasPresence():
			m.Set(f, protoreflect.ValueOfInt32(0))
		case f.Kind() == protoreflect.Int32Kind:
			m.Set(f, protoreflect.ValueOfInt32(int32(i)+1))
		case f.Kind() == protoreflect.Uint32Kind:
			m.Set(f, protoreflect.ValueOfUint32(1))
		case f.Kind() == protoreflect.Int64Kind, f.Kind() == protoreflect.Sfixed64Kind:
			m.Set(f, protoreflect.ValueOfInt64(int64(i)+1))
		default:
			panic(fmt.Sprintf("%s has a kind of field that Full does not know", f.FullName()))
		}
	}
	return m
}

// Wrap returns an encoded message that has part, an encoded message, in a field of m.
func Wrap(m proto.Message, field protoreflect.Name, part []byte) []byte {
	f := m.ProtoReflect().Descriptor().Fields().ByName(field)
	return protowire.AppendBytes(protowire.AppendTag(nil, f.Number(), protowire.BytesType), part)
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// withAddedField returns d with one string field more.
func withAddedField(t testing.TB, d protoreflect.MessageDescriptor) protoreflect.MessageDescriptor {
	t.Helper()
	file := protodesc.ToFileDescriptorProto(d.ParentFile())
	for _, m := range file.MessageType {
		if m.GetName() == string(d.Name()) {
			m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{
				Name: new(added), JsonName: new(strings.ReplaceAll(added, "_", "")),
				Number: proto.Int32(1000), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
				Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
			})
		}
	}
	extended, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return extended.Messages().ByName(d.Name())
}
