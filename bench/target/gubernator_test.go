// SPDX-License-Identifier: Apache-2.0

package target

import (
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/bench"
)

// gubernatorServer answers as Gubernator does; internal/e2e asks the real one.
type gubernatorServer struct {
	mu   sync.Mutex
	hits map[string]uint64
}

func (g *gubernatorServer) serve(_ any, stream grpc.ServerStream) error {
	var in []byte
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	switch method, _ := grpc.MethodFromServerStream(stream); method {
	case "/pb.gubernator.V1/GetRateLimits":
		answer, err := g.answer(in)
		if err != nil {
			return err
		}
		return stream.SendMsg(answer)
	default:
		return status.Error(codes.Unimplemented, method)
	}
}

func (g *gubernatorServer) answer(in []byte) ([]byte, error) {
	texts, numbers := map[protowire.Number]string{}, map[protowire.Number]uint64{}
	_, _, n := protowire.ConsumeTag(in)
	request, _ := protowire.ConsumeBytes(in[n:])
	for len(request) > 0 {
		number, kind, n := protowire.ConsumeTag(request)
		if n < 0 {
			return nil, status.Error(codes.InvalidArgument, "tag")
		}
		request = request[n:]
		switch kind {
		case protowire.BytesType:
			texts[number], n = protowire.ConsumeString(request)
		case protowire.VarintType:
			numbers[number], n = protowire.ConsumeVarint(request)
		default:
			return nil, status.Error(codes.InvalidArgument, "kind")
		}
		request = request[n:]
	}
	if numbers[5] != 60_000 || texts[1] == "" {
		return nil, status.Errorf(codes.InvalidArgument, "got %v %v", texts, numbers)
	}
	var r []byte
	if texts[2] == "broken" {
		r = protowire.AppendString(protowire.AppendTag(r, 5, protowire.BytesType), "no peer")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hits[texts[2]]+numbers[3] > numbers[4] {
		r = protowire.AppendVarint(protowire.AppendTag(r, 1, protowire.VarintType), 1)
	} else {
		g.hits[texts[2]] += numbers[3]
	}
	r = protowire.AppendVarint(protowire.AppendTag(r, 2, protowire.VarintType), numbers[4])
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), r), nil
}

func startGubernator(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gubernatorServer{hits: map[string]uint64{}}
	s := grpc.NewServer(grpc.UnknownServiceHandler(g.serve), grpc.ForceServerCodec(plainBytes{}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return "gubernator:" + l.Addr().String()
}

func TestGubernatorIsExact(t *testing.T) {
	wantExactly(t, open(t, startGubernator(t), Options{}), bench.Call{Key: "acme/alice", Requests: 1})
}

func TestGubernatorErrors(t *testing.T) {
	g := open(t, startGubernator(t), Options{})
	if _, err := g.Check(t.Context(), &bench.Call{Key: "broken"}); err == nil || !strings.Contains(err.Error(), "check: no peer") {
		t.Errorf("Check = %v, want the error of the daemon", err)
	}
	if _, err := g.Reserve(t.Context(), &bench.Call{}); !errors.Is(err, bench.ErrNoReservations) {
		t.Errorf("Reserve = %v, want %v", err, bench.ErrNoReservations)
	}
}

func FuzzParseGubernator(f *testing.F) {
	f.Add([]byte{10, 2, 8, 1})
	f.Fuzz(func(_ *testing.T, wire []byte) { _, _ = parseGubernator(wire) })
}
