// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"io"
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

// ready answers batches of one item without allocating anything.
type ready struct {
	ctx     context.Context
	answers [4]pb.Answers
	next    chan *pb.Answers
}

func (s *ready) Send(b *pb.Batch) error {
	a := &s.answers[b.GetSequence()%4]
	a.Sequence = b.GetSequence()
	s.next <- a
	return nil
}

func (s *ready) Recv() (*pb.Answers, error) {
	select {
	case a := <-s.next:
		return a, nil
	case <-s.ctx.Done():
		return nil, io.ErrUnexpectedEOF
	}
}

func (s *ready) CloseSend() error { return nil }

func newReady(ctx context.Context) *ready {
	s := &ready{ctx: ctx, next: make(chan *pb.Answers, 4)}
	for i := range s.answers {
		s.answers[i].Results = []*pb.Result{{}}
	}
	return s
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
	do := func() {
		if _, err := l.Do(ctx, item); err != nil {
			t.Fatal(err)
		}
	}
	do()
	if got := testing.AllocsPerRun(1000, do); got != 0 {
		t.Errorf("a call makes %v allocations, want none", got)
	}
}

// BenchmarkOverhead is what a call costs without a network: two changes of
// goroutine are the most of it.
func BenchmarkOverhead(b *testing.B) {
	l := New(Options{Open: func(ctx context.Context) (Stream, error) { return newReady(ctx), nil }})
	defer l.Close()
	item := check("acme/alice")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Do(b.Context(), item); err != nil {
			b.Fatal(err)
		}
	}
}
