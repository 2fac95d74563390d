// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is wrapped
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// The goroutine that receives for all callers only cuts answers into results. Each
// caller decodes its own result, in its own goroutine.

// Answers are pb.Answers whose results are still encoded. The zero value is empty. They
// are reused: each receive replaces the one before.
type Answers struct {
	codec.Answers // in frame

	frame  []byte
	buffer mem.Buffer // of gRPC, has frame; may be nil
}

// Raw is how a stream is opened from which Answers are received: as they are, by
// RecvMsg. They are encoded in [Answers.Frame] then, alone or within another
// message, and have to be given to Parse.
func Raw() grpc.CallOption { return raw }

var raw = grpc.ForceCodecV2(rawCodec{encoding.GetCodecV2("proto")})

// Exchange opens a stream of RateLimiter.Exchange.
func Exchange(ctx context.Context, c pb.RateLimiterClient) (Stream, error) {
	s, err := c.Exchange(ctx, Raw())
	if err != nil {
		return nil, err
	}
	return exchangeStream{s}, nil
}

type exchangeStream struct {
	grpc.BidiStreamingClient[pb.Batch, pb.Answers]
}

// Recv implements Stream.
func (s exchangeStream) Recv(a *Answers) error {
	if err := s.RecvMsg(a); err != nil {
		return err
	}
	return a.Parse(a.Frame())
}

// rawCodec is the codec of protobuf, except that it leaves Answers encoded.
type rawCodec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	a, ok := v.(*Answers)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	a.free()
	a.buffer = data.MaterializeToBuffer(mem.DefaultBufferPool())
	a.frame = a.buffer.ReadOnlyData()
	return nil
}

// refused returns how many of the calls the member refused because it is overloaded.
func (a *Answers) refused() (n int) {
	for _, result := range a.Results {
		if codec.IsOverloaded(result) {
			n++
		}
	}
	return n
}

// Frame returns the message that was received. It is valid until the next receive.
func (a *Answers) Frame() []byte { return a.frame }

// Set sets a to m, for streams that are not gRPC's.
func (a *Answers) Set(m *pb.Answers) (err error) {
	a.free()
	if a.frame, err = proto.Marshal(m); err != nil {
		return fmt.Errorf("answers: %w", err)
	}
	return a.Parse(a.frame)
}

// free returns the memory of a to gRPC.
func (a *Answers) free() {
	const keep = 1 << 12
	clear(a.Results)
	clear(a.Definitions)
	if cap(a.Results) > keep {
		a.Results = nil
	}
	a.Results, a.Definitions, a.frame = a.Results[:0], a.Definitions[:0], nil
	if a.buffer != nil {
		a.buffer.Free()
		a.buffer = nil
	}
}

// A Decoder takes the result of a call. It must not keep the encoded bytes.
type Decoder interface{ Decode(codec.Encoded) error }

// message is a Decoder into a pb.Result of its own memory.
type message pb.Result

// Decode implements Decoder.
func (m *message) Decode(e codec.Encoded) error { return e.Message((*pb.Result)(m)) }

// ErrAnswer means that the member answered the call with bytes that cannot be decoded.
var ErrAnswer = errors.New("answer cannot be decoded")
