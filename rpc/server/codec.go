// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// grpc-go ends a call whose message it cannot decode, such as one with a key
// that is not UTF-8, with Internal and without a field. Here that is the
// caller's fault: the codec puts the error aside, and the handler answers it.
// So does the handler of a stream, which ends with the error that RecvMsg gave.

// incoming is a message on its way from the codec to a handler.
type incoming struct {
	receive func(any) error // grpc's, which asks the codec
	message any
	err     error // of decoding
	why     Rejection

	read func(any) error // in.decode, bound once
}

// decode stands in for grpc's own function of this kind.
func (in *incoming) decode(message any) error {
	in.message = message
	if err := in.receive(in); err != nil {
		return err
	}
	return in.err
}

// grpcCodec is the codec of protobuf, except for incoming messages and for outgoing ones
// of streams.
type grpcCodec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c grpcCodec) Marshal(v any) (mem.BufferSlice, error) {
	if out, ok := v.(*outgoing); ok {
		return out.marshal()
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c grpcCodec) Unmarshal(data mem.BufferSlice, v any) error {
	in, ok := v.(*incoming)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	// The decoder makes one slice of many, too, and finds that it is one already.
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	encoded := buffer.ReadOnlyData()
	if in.err = tooManyElements(encoded, in.message); in.err != nil {
		in.why = TooLarge
	} else if decodeRequest(encoded, in.message) {
		return nil
	} else if err := c.CodecV2.Unmarshal(mem.BufferSlice{buffer}, in.message); err != nil {
		in.err, in.why = undecodable(encoded, in.message, err), BadMessage
	}
	return nil
}

// maxElements is far above the strings, messages and elements of lists that any message
// has at its top level: a batch has at most MaxItems. What a handler accepts is less.
const maxElements = 2 * MaxItems

// tooManyElements returns an error if a message has so many elements that it must not be
// decoded: they would take 80 times the memory of the message.
func tooManyElements(encoded []byte, message any) error {
	if len(encoded) <= 2*maxElements { // each has a tag and a length
		return nil
	}
	most := MaxItems
	_, fromMember := message.(*pb.PeerMessage)
	if _, ofStream := message.(*pb.Batch); ofStream || fromMember {
		most = MaxBatchItems
	}
	n := codec.Elements(encoded, fromMember)
	if n <= maxElements {
		return nil
	}
	switch message.(type) {
	case *pb.Batch, *pb.BatchRequest, *pb.PeerMessage:
		return wire(tooMany(n, most))
	default:
		return grpcstatus.Errorf(codes.InvalidArgument, "the message has %d elements, and at most %d are decoded", n, maxElements)
	}
}

func undecodable(data []byte, message any, err error) error {
	if m, ok := message.(proto.Message); ok {
		if field, value := notUTF8(m.ProtoReflect().Descriptor(), data); field != "" {
			return wire(wrongText(field, value, "must be valid UTF-8"))
		}
	}
	return grpcstatus.Errorf(codes.InvalidArgument, "the message cannot be decoded: %v", err)
}

// notUTF8 finds the first text in data that is not UTF-8: items[2].check.key.
func notUTF8(message protoreflect.MessageDescriptor, data []byte) (field, value string) {
	seen := map[protowire.Number]int{}
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return "", ""
		}
		data = data[n:]
		f := message.Fields().ByNumber(number)
		if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
			return "", ""
		}
		body, _ := protowire.ConsumeBytes(data[:n])
		data = data[n:]
		if f == nil || kind != protowire.BytesType {
			continue
		}
		name := string(f.Name())
		switch {
		case f.Kind() == protoreflect.StringKind && !utf8.Valid(body):
			return name, string(body)
		case f.IsMap():
			if _, text := notUTF8(f.Message(), body); text != "" {
				return name, text
			}
		case f.Kind() == protoreflect.MessageKind:
			if inner, text := notUTF8(f.Message(), body); inner != "" {
				if f.IsList() {
					name += "[" + strconv.Itoa(seen[number]) + "]"
				}
				return name + "." + inner, text
			}
		}
		seen[number]++
	}
	return "", ""
}

// decodingStream is a stream whose RecvMsg fails with InvalidArgument at a message
// that cannot be decoded, and whose SendMsg waits for a peer that does not read.
type decodingStream struct {
	grpc.ServerStream
	ctx     context.Context // of the ServerStream, with the session
	session *auth.Session   // nil: nothing ends it
	in      incoming
	out     *sendQueue

	rejections *Rejections
}

func newDecodingStream(ctx context.Context, session *auth.Session, ss grpc.ServerStream, out *sendQueue, rejections *Rejections) *decodingStream {
	return &decodingStream{ServerStream: ss, ctx: ctx, session: session, in: incoming{receive: ss.RecvMsg}, out: out, rejections: rejections}
}

// Context implements grpc.ServerStream.
func (s *decodingStream) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ServerStream.
func (s *decodingStream) SendMsg(message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return s.ServerStream.SendMsg(message)
	}
	return s.out.send(s.Context(), m, s.ServerStream.SendMsg)
}

// RecvMsg implements grpc.ServerStream.
func (s *decodingStream) RecvMsg(message any) error {
	err := s.in.decode(message)
	if err == nil {
		err = s.session.Err() // a message that came after the end is not handled
	}
	if s.in.err != nil {
		s.rejections.Count(GRPCInterface, s.in.why)
	}
	s.in.message, s.in.err = nil, nil
	return err
}

// handling returns the description of u with unary handlers that answer what
// cannot be decoded as u does, and a panic with Internal. An interceptor for panics
// would cost two allocations per call.
func handling(u UnaryService, guard guard) *grpc.ServiceDesc {
	desc := u.Desc
	pool := &sync.Pool{New: func() any {
		in := &incoming{}
		in.read = in.decode
		return in
	}}
	methods := make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		handle, name := m.Handler, "/"+desc.ServiceName+"/"+m.MethodName
		if desc.ServiceName == pb.RateLimiter_ServiceDesc.ServiceName {
			handle = guard.streams.encoded(m.MethodName, handle)
		}
		refusable := slices.Contains(u.refusable, m.MethodName)
		m.Handler = func(srv any, ctx context.Context, receive func(any) error, interceptor grpc.UnaryServerInterceptor) (answer any, err error) {
			defer guard.recover(name, &err)
			if err := guard.check(ctx); err != nil {
				return nil, err
			}
			if refusable {
				if err := guard.admission.Begin(ctx, FromGRPC); err != nil {
					return nil, err
				}
				defer guard.admission.End()
			}
			in := pool.Get().(*incoming)
			in.receive = receive
			answer, err = handle(srv, ctx, in.read, interceptor)
			if in.err != nil {
				guard.rejections.Count(GRPCInterface, in.why)
				if u.Undecodable != nil {
					answer, err = u.Undecodable(in.err)
				}
			}
			*in = incoming{read: in.read}
			pool.Put(in)
			if batch, ok := answer.(*pb.BatchResponse); ok && err == nil { // other answers are small
				return guard.streams.unary(ctx, batch)
			}
			return answer, err
		}
		methods[i] = m
	}
	desc.Methods = methods
	return &desc
}
