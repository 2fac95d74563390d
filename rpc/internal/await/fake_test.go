// SPDX-License-Identifier: Apache-2.0

package await

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

// pipe is an in-memory stream, and its server's end. It holds no messages: Send waits for Recv.
type pipe struct {
	ctx      context.Context
	messages chan *pb.WaitMessage
	answers  chan *pb.WaitAnswer
	halfway  chan struct{} // closed when the asker has ended its side
	finished chan struct{} // closed when the handler has returned
	err      error         // what it returned; io.EOF for nil
}

// fake is a member. Each stream is served by handle, whose argument n counts streams from 1.
type fake struct {
	handle func(n int, p *pipe) error
	reject func(n int) error // rejects the n-th attempt to open

	mu              sync.Mutex
	opened, running int
	streams         int
}

// open is what New takes.
func (f *fake) open(ctx context.Context) (Stream, error) {
	p, err := f.pipe(ctx)
	return clientEnd{p}, err
}

func (f *fake) pipe(ctx context.Context) (*pipe, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	if f.reject != nil {
		if err := f.reject(f.opened); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &pipe{
		ctx: ctx, messages: make(chan *pb.WaitMessage), answers: make(chan *pb.WaitAnswer),
		halfway: make(chan struct{}), finished: make(chan struct{}),
	}
	f.streams++
	f.running++
	go func(n int) {
		defer cancel()
		if p.err = f.handle(n, p); p.err == nil {
			p.err = io.EOF
		}
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
		close(p.finished)
	}(f.streams)
	return p, nil
}

// count returns how many streams were opened, and how many are open.
func (f *fake) count() (opened, running int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened, f.running
}

type clientEnd struct{ *pipe }

func (p clientEnd) Send(m *pb.WaitMessage) error {
	select {
	case p.messages <- m:
		return nil
	case <-p.finished:
		return io.EOF
	case <-p.ctx.Done():
		return io.EOF
	}
}

func (p clientEnd) Recv() (*pb.WaitAnswer, error) {
	select {
	case a := <-p.answers:
		return a, nil
	case <-p.finished:
		return nil, p.err
	case <-p.ctx.Done():
		select {
		case <-p.finished:
			return nil, p.err
		default:
			return nil, p.ctx.Err()
		}
	}
}

// The pipe itself is a ServerStream.

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Recv() (*pb.WaitMessage, error) {
	select {
	case m := <-p.messages:
		return m, nil
	case <-p.halfway:
		return nil, io.EOF
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

func (p *pipe) Send(a *pb.WaitAnswer) error {
	select {
	case p.answers <- a:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// item is a check of a key.
func item(key string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: key}}}
}

// answerTo is the result for a key.
func answerTo(key string) *pb.Result {
	return &pb.Result{Result: &pb.Result_Decision{Decision: &pb.Decision{RequestId: key}}}
}

// line is what waits at a member: what begin was called with, by key.
type line struct {
	mu    sync.Mutex
	waits map[string]func(*pb.Result)
	left  []string
	began int
}

func newLine() *line { return &line{waits: map[string]func(*pb.Result){}} }

func (l *line) begin(item *pb.Item, done func(*pb.Result)) (leave func()) {
	key := item.GetCheck().GetKey()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began++
	l.waits[key] = done
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waits, key)
		l.left = append(l.left, key)
	}
}

// admit answers the call for a key.
func (l *line) admit(key string) {
	l.mu.Lock()
	done := l.waits[key]
	delete(l.waits, key)
	l.mu.Unlock()
	done(answerTo(key))
}

func (l *line) count() (waiting, left, began int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waits), len(l.left), l.began
}

// wantLine fails unless so many calls wait and have left.
func (l *line) want(t *testing.T, waiting, left int) {
	t.Helper()
	synctest.Wait()
	if w, gone, _ := l.count(); w != waiting || gone != left {
		t.Errorf("%d calls wait and %d have left, want %d and %d", w, gone, waiting, left)
	}
}

// bubble runs a test in virtual time, with an asker whose calls wait in a line.
func bubble(t *testing.T, most int, test func(t *testing.T, a *Asker, l *line, f *fake, stop chan struct{})) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l, stop := newLine(), make(chan struct{})
		f := &fake{handle: func(_ int, p *pipe) error { return Serve(p, stop, most, l.begin) }}
		a := New(f.open)
		test(t, a, l, f, stop)
		a.Close()
		synctest.Wait()
	})
}

// answers collects what calls end with, by key.
type answers struct {
	mu   sync.Mutex
	got  map[string]error
	keys []string // in the order in which they ended
}

// start starts a call for a key.
func (c *answers) start(t *testing.T, a *Asker, key string) (leave func()) {
	return a.Start(item(key), func(r *pb.Result, err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, twice := c.got[key]; twice {
			t.Errorf("%s: done was called twice", key)
		}
		if err == nil && r.GetDecision().GetRequestId() != key {
			err = errors.New("not its own result: " + r.String())
		}
		if c.got == nil {
			c.got = map[string]error{}
		}
		c.got[key] = err
		c.keys = append(c.keys, key)
	})
}

// want fails unless n calls have ended, all with an error that is target.
func (c *answers) want(t *testing.T, n int, target error) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.got) != n {
		t.Errorf("%d calls have ended, want %d", len(c.got), n)
	}
	for key, err := range c.got {
		if !errors.Is(err, target) {
			t.Errorf("%s ended with %v, want %v", key, err, target)
		}
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
