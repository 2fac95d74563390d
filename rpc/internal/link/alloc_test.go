// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"io"
	"testing"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// ready answers batches of one item without allocating anything.
type ready struct {
	ctx     context.Context
	answers [4]Answers
	next    chan *Answers
}

func (s *ready) Send(b *pb.Batch) error {
	a := &s.answers[b.GetSequence()%4]
	a.Sequence = b.GetSequence()
	s.next <- a
	return nil
}

func (s *ready) Recv(into *Answers) error {
	select {
	case a := <-s.next:
		into.Sequence, into.Results = a.Sequence, append(into.Results[:0], a.Results...)
		return nil
	case <-s.ctx.Done():
		return io.ErrUnexpectedEOF
	}
}

func (s *ready) CloseSend() error { return nil }

func newReady(ctx context.Context) *ready {
	s := &ready{ctx: ctx, next: make(chan *Answers, 4)}
	for i := range s.answers {
		s.answers[i].Results = [][]byte{make([]byte, 400)}
	}
	return s
}

type decoded int

func (d *decoded) Decode(e codec.Encoded) error {
	*d += decoded(len(e.Result))
	return nil
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	l := New(Options{Open: func(ctx context.Context) (Stream, error) { return newReady(ctx), nil }})
	defer l.Close()
	item := check("acme/alice")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var d decoded
	do := func() {
		if err := l.DoInto(ctx, item, &d); err != nil {
			t.Fatal(err)
		}
	}
	do()
	if got := testing.AllocsPerRun(1000, do); got != 0 {
		t.Errorf("a call makes %v allocations, want none", got)
	}
	if d != 1002*400 {
		t.Errorf("%d bytes were decoded, want 400 for each of 1002 calls", d)
	}
}

// BenchmarkOverhead measures a call without a network; most of it is two switches of
// goroutine.
func BenchmarkOverhead(b *testing.B) {
	l := New(Options{Open: func(ctx context.Context) (Stream, error) { return newReady(ctx), nil }})
	defer l.Close()
	item := check("acme/alice")
	var d decoded
	b.ReportAllocs()
	for b.Loop() {
		if err := l.DoInto(b.Context(), item, &d); err != nil {
			b.Fatal(err)
		}
	}
}
