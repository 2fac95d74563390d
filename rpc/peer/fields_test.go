// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// fill gives every field of m a value that is not its default. Numbers are small
// and differ, texts name their field.
func fill(m protoreflect.Message) {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		n := 100 - int64(f.Number()) // min_output_tokens is below max_output_tokens, as it must be
		if f.Name() == "input_tokens" {
			n = 1_000 // more than its parts
		}
		switch {
		case f.IsMap():
			m.Mutable(f).Map().Set(protoreflect.ValueOfString("images").MapKey(), protoreflect.ValueOfInt64(n))
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString(string(f.Name())))
		case f.Kind() == protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(n))
		case f.Kind() == protoreflect.Int32Kind:
			m.Set(f, protoreflect.ValueOfInt32(int32(n)))
		case f.Kind() == protoreflect.Uint32Kind:
			m.Set(f, protoreflect.ValueOfUint32(uint32(n)))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		case f.Kind() == protoreflect.MessageKind:
			fill(m.Mutable(f).Message())
		case f.Kind() == protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(1))
		default:
			panic("fill: what is a value of " + string(f.FullName()) + "?")
		}
	}
}

// recorder is a stream to a member that decides nothing and keeps what it is asked.
type recorder struct {
	items   []*pb.Item
	answers chan *pb.Answers // of the batch that was sent; cap 1
	done    <-chan struct{}  // of the stream
}

// Send implements link.Stream.
func (r *recorder) Send(b *pb.Batch) error {
	b, err := link.Decoded(b)
	if err != nil {
		return err
	}
	answers := &pb.Answers{Sequence: b.Sequence}
	for _, item := range b.Items {
		r.items = append(r.items, item)
		code := codes.Internal
		if requestid.IsFallback(item.GetSettle().GetRequestId()) || requestid.IsFallback(item.GetCancel().GetRequestId()) {
			code = codes.NotFound
		}
		answers.Results = append(answers.Results, &pb.Result{Result: &pb.Result_Error{Error: &pb.Error{Code: int32(code)}}})
	}
	r.answers <- answers
	return nil
}

// Recv implements link.Stream.
func (r *recorder) Recv(a *link.Answers) error {
	select {
	case answers := <-r.answers:
		return a.Set(answers)
	case <-r.done:
		return io.EOF
	}
}

// CloseSend implements link.Stream.
func (r *recorder) CloseSend() error { return nil }

// requestOf returns the request of an item.
func requestOf(item *pb.Item) protoreflect.Message {
	m := item.ProtoReflect()
	return m.Get(m.WhichOneof(m.Descriptor().Oneofs().ByName("call"))).Message()
}

// TestEveryFieldReachesTheOwner: whatever a request says, the owner reads, with
// the id of the caller, with one that the asked member makes, and with one that
// another member made in fallback.
func TestEveryFieldReachesTheOwner(t *testing.T) {
	nodes := newCluster(t, 2)
	asked, key := nodes[0], nodes[1].ownedBy(0)
	owner := asked.ownerOf(asked.table.Load(), call.Of(&pb.PeekRequest{Key: key}).Partition)
	owner.peer.link.Close()
	stream := &recorder{answers: make(chan *pb.Answers, 1)}
	owner.peer.link = link.New(link.Options{
		Timeout: testWait,
		Open: func(ctx context.Context) (link.Stream, error) {
			stream.done = ctx.Done()
			return stream, nil
		},
		Ring: func() uint64 { return 0 },
	})
	for _, test := range []struct {
		request proto.Message
		without protoreflect.Name // a field that the others exclude
	}{
		{&pb.CheckRequest{}, ""},
		{&pb.ReserveRequest{}, ""},
		{&pb.SettleRequest{}, ""},
		{&pb.CancelRequest{}, ""},
		{&pb.PeekRequest{}, ""},
		{&pb.CountRequest{}, "throttle"},
		{&pb.CountRequest{}, "give_back"},
	} {
		request := test.request
		m := request.ProtoReflect()
		fill(m)
		if test.without != "" {
			m.Clear(m.Descriptor().Fields().ByName(test.without))
		}
		set := func(name protoreflect.Name, text string) {
			if f := m.Descriptor().Fields().ByName(name); f != nil {
				m.Set(f, protoreflect.ValueOfString(text))
			}
		}
		set("key", key)
		ids := []string{"given"}
		switch c := call.Of(request); {
		case c.Kind.EndsReservation():
			ids = append(ids, requestid.Fallback(nodes[1].name, "given"))
		case c.Kind != call.Peek:
			ids = append(ids, "")
		}
		for _, id := range ids {
			set("request_id", id)
			before := proto.Clone(request)
			asked.Do(t.Context(), []call.Call{call.Of(request)}).Release()
			if diff := cmp.Diff(before, request, protocmp.Transform()); diff != "" {
				t.Errorf("%T with id %q: the caller's request has changed:\n%s", request, id, diff)
			}
			want := []string{id}
			if requestid.IsFallback(id) {
				want = append(want, "given") // to the owner
			}
			if len(stream.items) != len(want) {
				t.Fatalf("%T with id %q: %d items were sent, want %d: %v", request, id, len(stream.items), len(want), stream.items)
			}
			for i, item := range stream.items {
				set("request_id", want[i])
				if missing := missingFields(m, requestOf(item), want[i] == ""); len(missing) > 0 {
					t.Errorf("%T with id %q: item %d lacks %v", request, id, i, missing)
				}
			}
			stream.items = nil
		}
	}
}

// missingFields lists the fields of a that b has not, or not so. An id that is new
// must only be there.
func missingFields(a, b protoreflect.Message, newID bool) (missing []protoreflect.Name) {
	for i := range a.Descriptor().Fields().Len() {
		f := a.Descriptor().Fields().Get(i)
		if f.Name() == "request_id" && newID {
			if b.Get(f).String() == "" {
				missing = append(missing, f.Name())
			}
			continue
		}
		if a.Has(f) != b.Has(f) || !a.Get(f).Equal(b.Get(f)) {
			missing = append(missing, f.Name())
		}
	}
	return missing
}

// TestMissingFields: a field that is dropped is found.
func TestMissingFields(t *testing.T) {
	full := &pb.ReserveRequest{}
	fill(full.ProtoReflect())
	fields := full.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		without := proto.CloneOf(full)
		without.ProtoReflect().Clear(fields.Get(i))
		if got := missingFields(full.ProtoReflect(), without.ProtoReflect(), false); !slices.Equal(got, []protoreflect.Name{fields.Get(i).Name()}) {
			t.Errorf("without %s: missing %v", fields.Get(i).Name(), got)
		}
	}
}
