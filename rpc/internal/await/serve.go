// SPDX-License-Identifier: Apache-2.0

package await

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// ServerStream is the server's end of a [Stream]. Send is called by one goroutine at a time,
// Recv by another. Send must not keep the answer.
type ServerStream interface {
	Send(*pb.WaitAnswer) error
	Recv() (*pb.WaitMessage, error)
	Context() context.Context
}

// Serve passes the calls of a stream to begin, and sends their results as they come, until the
// peer ends the stream or stop is closed.
//
// begin is called by one goroutine, must not block, and is not called after Serve has returned.
// done ends the call with its result, which must not be changed afterwards. It may be called by
// any goroutine, at any time, also by begin; only the first call counts, and none does after
// leave. leave is called at most once, and only for a call that is not done: because the caller
// has gone, or Serve is about to return. It must not block. If done is called meanwhile, leave
// may be called all the same.
//
// When stop is closed, all calls leave, results that came before are sent, and Serve returns
// nil, which ends the stream with OK: the peer asks again elsewhere. A peer that only ends its
// side gets the results of its calls first.
//
// If more than most calls wait, the next one is answered with RESOURCE_EXHAUSTED. From a peer
// that does not read so many answers, nothing more is read. A panic of begin or leave becomes a
// [link.PanicError]. After Serve has returned, a goroutine may still be in Recv or Send: it ends
// with the context of the stream, which gRPC cancels when the handler returns.
func Serve(s ServerStream, stop <-chan struct{}, most int, begin func(item *pb.Item, done func(*pb.Result)) (leave func())) error {
	w := &service{stream: s, most: most, begin: begin, wake: notify.New(), room: notify.New()}
	w.mu.waiting = map[uint64]*waiter{}
	received, sent := make(chan error, 1), make(chan error, 1) // buffered: Serve may have returned
	go func() { received <- w.receive() }()
	go func() { sent <- w.send() }()
	for {
		select {
		case err := <-received:
			if err != nil {
				return w.end(err)
			}
			received = nil
			w.finish() // it sends nothing more, and may still read
		case err := <-sent:
			return w.end(err)
		case <-s.Context().Done():
			return w.end(status.FromContextError(s.Context().Err()).Err())
		case <-stop:
			stop = nil
			if err := w.letGo(); err != nil {
				return err
			}
			w.finish()
		}
	}
}

// service is a stream that is served.
type service struct {
	stream ServerStream
	most   int
	begin  func(item *pb.Item, done func(*pb.Result)) (leave func())
	wake   notify.Signal // for the sender
	room   notify.Signal // for the receiver

	beginning sync.Mutex // held while begin runs; locked before mu
	mu        struct {
		sync.Mutex
		waiting  map[uint64]*waiter // by number
		answers  []*pb.WaitAnswer   // in the order in which they came, not taken by the sender yet
		unsent   int                // answers, with those that the sender has taken
		finished bool               // the sender ends once everything is answered
		stopped  bool               // nothing more is begun or done
	}
}

// waiter is a call that waits.
type waiter struct {
	leave func() // nil while begin runs
}

// end ends the service with err or, if that is nil, with the error of letGo.
func (w *service) end(err error) error {
	if letGo := w.letGo(); err == nil {
		err = letGo
	}
	return err
}

// letGo makes all calls leave. Nothing is begun or done afterwards.
func (w *service) letGo() (err error) {
	w.beginning.Lock()
	w.mu.Lock()
	w.mu.stopped = true
	waiting := w.mu.waiting
	w.mu.waiting = nil
	w.mu.Unlock()
	w.beginning.Unlock()
	for _, c := range waiting {
		if c.leave == nil { // begin has panicked
			continue
		}
		func() {
			defer recovered(&err)
			c.leave()
		}()
	}
	return err
}

// finish makes the sender end once everything is answered.
func (w *service) finish() {
	w.mu.Lock()
	w.mu.finished = true
	w.mu.Unlock()
	w.wake.Set()
}

// receive takes messages until the peer ends its side, or the service ends.
func (w *service) receive() (err error) {
	defer recovered(&err) // Recv decodes
	for w.awaitRoom() {
		m, err := w.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if more, err := w.take(m); !more {
			return err
		}
	}
	return nil
}

// awaitRoom waits while too many answers are unsent. It returns false when the stream ends.
func (w *service) awaitRoom() bool {
	for {
		w.mu.Lock()
		full := w.mu.unsent >= w.most
		w.mu.Unlock()
		if !full {
			return true
		}
		select {
		case <-w.room.C():
		case <-w.stream.Context().Done():
			return false
		}
	}
}

// take handles one message.
func (w *service) take(m *pb.WaitMessage) (more bool, err error) {
	number, item := m.GetNumber(), m.GetItem()
	w.beginning.Lock()
	defer w.beginning.Unlock()
	w.mu.Lock()
	if w.mu.stopped {
		w.mu.Unlock()
		return false, nil
	}
	c := w.mu.waiting[number]
	if item == nil {
		delete(w.mu.waiting, number)
		w.mu.Unlock()
		if c != nil {
			c.leave()
		}
		return true, nil
	}
	if c != nil {
		w.mu.Unlock()
		return false, status.Errorf(codes.InvalidArgument, "number: must not be used twice, got %d", number)
	}
	if len(w.mu.waiting) >= w.most {
		w.answerLocked(number, w.refusal())
		w.mu.Unlock()
		return true, nil
	}
	c = &waiter{}
	w.mu.waiting[number] = c
	w.mu.Unlock()
	leave := w.begin(item, func(r *pb.Result) { w.done(number, c, r) })
	w.mu.Lock()
	c.leave = leave
	w.mu.Unlock()
	return true, nil
}

// done answers a call, unless it was answered or has left.
func (w *service) done(number uint64, c *waiter, r *pb.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.waiting[number] != c {
		return
	}
	delete(w.mu.waiting, number)
	w.answerLocked(number, r)
}

func (w *service) answerLocked(number uint64, r *pb.Result) {
	w.mu.answers = append(w.mu.answers, &pb.WaitAnswer{Number: number, Result: r})
	w.mu.unsent++
	w.wake.Set()
}

// refusal is the result of a call above the most that may wait.
func (w *service) refusal() *pb.Result {
	return &pb.Result{Result: &pb.Result_Error{Error: &pb.Error{
		Code: int32(codes.ResourceExhausted), Message: fmt.Sprintf("too many waiting calls: %d wait on this stream", w.most),
	}}}
}

// send sends answers until the stream ends or, after finish, everything is answered.
func (w *service) send() (err error) {
	defer recovered(&err) // Send encodes
	for {
		w.mu.Lock()
		answers := w.mu.answers
		w.mu.answers = nil
		ended := w.mu.finished && len(w.mu.waiting) == 0
		w.mu.Unlock()
		for _, a := range answers {
			if err := w.stream.Send(a); err != nil {
				return err
			}
			w.mu.Lock()
			w.mu.unsent--
			w.mu.Unlock()
			w.room.Set()
		}
		if ended {
			return nil
		}
		if len(answers) > 0 {
			continue
		}
		select {
		case <-w.wake.C():
		case <-w.stream.Context().Done():
			return status.FromContextError(w.stream.Context().Err()).Err()
		}
	}
}

// recovered turns a panic into an error, because no interceptor recovers in a goroutine that
// Serve started.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = &link.PanicError{Value: v, Stack: debug.Stack()}
	}
}
