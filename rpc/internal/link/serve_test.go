// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

// server runs Serve on a pipe in a bubble and returns the other end. The error of
// Serve is sent to ended.
func server(t *testing.T, answer func(*pb.Batch) *pb.Answers) (p clientEnd, stop chan struct{}, ended chan error) {
	t.Helper()
	stop, ended = make(chan struct{}), make(chan error, 1)
	f := &fake{handle: func(_ int, p *pipe) error {
		err := Serve(p, stop, answer)
		ended <- err
		return err
	}}
	s, err := f.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.(clientEnd), stop, ended
}

func send(t *testing.T, p clientEnd, sequence uint64) {
	t.Helper()
	if err := p.Send(&pb.Batch{Sequence: sequence, Items: []*pb.Item{check("k")}}); err != nil {
		t.Fatal(err)
	}
}

func TestServeUntilThePeerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, ended := server(t, echo)
		send(t, p, 1)
		send(t, p, 2)
		_ = p.CloseSend()
		for i := range uint64(2) {
			a, err := p.receive()
			if err != nil || a.GetSequence() != i+1 || a.GetResults()[0].GetDecision().GetRequestId() != "k" {
				t.Errorf("Recv() = %v, %v", a, err)
			}
		}
		if _, err := p.receive(); !errors.Is(err, io.EOF) {
			t.Errorf("Recv() = %v, want the end", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
}

// After stop the current batch is answered and no further batch is read.
func TestServeStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looked := 0
		p, stop, ended := server(t, func(b *pb.Batch) *pb.Answers {
			looked++
			time.Sleep(time.Second)
			return echo(b)
		})
		send(t, p, 1)
		send(t, p, 2)
		synctest.Wait()
		close(stop)
		start := time.Now()
		if err := <-ended; err != nil {
			t.Errorf("Serve() = %v", err)
		}
		if took := time.Since(start); took != time.Second || looked != 1 {
			t.Errorf("took %v and looked at %d batches, want 1 s and 1", took, looked)
		}
		if a, err := p.receive(); err != nil || a.GetSequence() != 1 {
			t.Errorf("Recv() = %v, %v; want the first answers", a, err)
		}
		if _, err := p.receive(); !errors.Is(err, io.EOF) {
			t.Errorf("Recv() = %v, want the end", err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // at rest
		_, stop, ended := server(t, echo)
		synctest.Wait()
		close(stop)
		if err := <-ended; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
}

func TestServeErrors(t *testing.T) {
	tests := []struct {
		name     string
		sequence uint64
		answer   func(*pb.Batch) *pb.Answers
		want     codes.Code
	}{
		{"panic", 1, func(*pb.Batch) *pb.Answers { panic("secret") }, codes.Internal},
		{"no answers", 1, func(*pb.Batch) *pb.Answers { return nil }, codes.Internal},
		{"wrong sequence", 2, echo, codes.InvalidArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, _, ended := server(t, tt.answer)
				send(t, p, tt.sequence)
				s, ok := status.FromError(<-ended)
				if !ok || s.Code() != tt.want || strings.Contains(s.Message(), "secret") {
					t.Errorf("Serve() = %v, want %v without details", s, tt.want)
				}
			})
		})
	}
	t.Run("panic and stop", func(t *testing.T) { // the batch was read, so it must not be sent again
		synctest.Test(t, func(t *testing.T) {
			p, stop, ended := server(t, func(*pb.Batch) *pb.Answers {
				time.Sleep(time.Second)
				panic("secret")
			})
			send(t, p, 1)
			synctest.Wait()
			close(stop)
			var e *PanicError
			if err := <-ended; !errors.As(err, &e) || e.Value != "secret" || len(e.Stack) == 0 {
				t.Errorf("Serve() = %v, want the panic", err)
			}
		})
	})
}

// A member that was frozen finds batches whose sender does not wait any more.
func TestServeDoesNotAnswerCancelledStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := &deadStream{ctx: ctx}
		cancel()
		err := Serve(p, nil, func(*pb.Batch) *pb.Answers {
			t.Error("a batch of a dead stream was looked at")
			return nil
		})
		if status.Code(err) != codes.Canceled {
			t.Errorf("Serve() = %v, want cancelled", err)
		}
	})
}

// deadStream has a batch that arrived before the stream was cancelled.
type deadStream struct{ ctx context.Context }

func (s *deadStream) Context() context.Context { return s.ctx }
func (s *deadStream) Recv() (*pb.Batch, error) { return &pb.Batch{Sequence: 1}, nil }
func (s *deadStream) Send(*pb.Answers) error   { return nil }
