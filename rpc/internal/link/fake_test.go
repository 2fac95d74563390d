// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// pipe is an in-memory stream. As in gRPC, the client receives what was sent before
// the stream ended, which it does when ctx ends or the handler returns.
type pipe struct {
	ctx      context.Context
	batches  chan *pb.Batch
	answers  chan *pb.Answers
	halfway  chan struct{} // closed by CloseSend
	finished chan struct{} // closed when the handler has returned
	err      error         // what it returned; io.EOF for nil
}

// fake is a member. Each stream is served by handle, whose argument n counts
// streams from 1.
type fake struct {
	handle func(n int, p *pipe) error
	reject func(n int) error // rejects the n-th attempt to open, counted from 1
	depth  int               // batches and answers that a stream holds; 0: 4, -1: none

	mu      sync.Mutex
	opened  []time.Time // attempts
	streams int
	running int // streams that neither side has ended
	most    int // the maximum of running
}

// open is an Options.Open.
func (f *fake) open(ctx context.Context) (Stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = append(f.opened, time.Now())
	if f.reject != nil {
		if err := f.reject(len(f.opened)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	depth := f.depth
	switch depth {
	case 0:
		depth = 4
	case -1:
		depth = 0
	}
	p := &pipe{
		ctx: ctx, batches: make(chan *pb.Batch, depth), answers: make(chan *pb.Answers, depth),
		halfway: make(chan struct{}), finished: make(chan struct{}),
	}
	f.streams++
	f.running++
	f.most = max(f.most, f.running)
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running--
	})
	go func(n int) {
		defer cancel()
		p.err = f.handle(n, p)
		if p.err == nil {
			p.err = io.EOF
		}
		close(p.finished)
	}(f.streams)
	return clientEnd{p}, nil
}

// count returns how often the fake was opened, and how many streams are open and
// were open at once.
func (f *fake) count() (attempts, running, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.opened), f.running, f.most
}

type clientEnd struct{ *pipe }

func (p clientEnd) Send(b *pb.Batch) error {
	b, err := Decoded(b)
	if err != nil {
		return err
	}
	select {
	case <-p.finished:
		return io.EOF
	default:
	}
	select {
	case p.batches <- b:
		return nil
	case <-p.finished:
		return io.EOF
	case <-p.ctx.Done():
		return io.EOF
	}
}

func (p clientEnd) Recv(a *Answers) error {
	m, err := p.receive()
	if err != nil {
		return err
	}
	return a.Set(m)
}

func (p clientEnd) receive() (*pb.Answers, error) {
	select {
	case a := <-p.answers:
		return a, nil
	case <-p.finished:
	case <-p.ctx.Done(): // the handler does that, too, after it has finished
		select {
		case <-p.finished:
		default:
			return nil, p.ctx.Err()
		}
	}
	select {
	case a := <-p.answers:
		return a, nil
	default:
		return nil, p.err
	}
}

func (p clientEnd) CloseSend() error {
	close(p.halfway)
	return nil
}

// The pipe itself is a ServerStream.

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Recv() (*pb.Batch, error) {
	select {
	case b := <-p.batches:
		return b, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	case <-p.halfway:
		select {
		case b := <-p.batches:
			return b, nil
		default:
			return nil, io.EOF
		}
	}
}

func (p *pipe) Send(a *pb.Answers) error {
	select {
	case p.answers <- a:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// answering is a handler that answers each batch after a delay.
func answering(after time.Duration) func(int, *pipe) error {
	return func(_ int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			time.Sleep(after)
			return echo(b)
		})
	}
}

// frozen is a handler that reads and never answers.
func frozen(_ int, p *pipe) error {
	for {
		if _, err := p.Recv(); err != nil {
			return err
		}
	}
}

// bubble runs a test in virtual time, with a link to f.
func bubble(t *testing.T, f *fake, o Options, test func(t *testing.T, l *Link)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := o
		o.Open = f.open
		l := New(o)
		test(t, l)
		l.Close()
		time.Sleep(time.Minute) // virtual, and longer than any handler sleeps
	})
}

// wantResult fails unless a call succeeded with the result for its key.
func wantResult(t *testing.T, key string, r *pb.Result, err error) {
	t.Helper()
	if got := r.GetDecision().GetRequestId(); err != nil || got != key {
		t.Errorf("Do(%s) = %q, %v; want its own result", key, got, err)
	}
}

func wantError(t *testing.T, want error, r *pb.Result, err error) {
	t.Helper()
	if !errors.Is(err, want) || r != nil {
		t.Errorf("Do() = %v, %v; want %v", r, err, want)
	}
}

// within fails unless f takes exactly want, in virtual time.
func within(t *testing.T, want time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if got := time.Since(start); got != want {
		t.Errorf("took %v, want %v", got, want)
	}
}
