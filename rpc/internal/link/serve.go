// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

// ServerStream is the server's end of a [Stream]. Send must not keep the answers.
type ServerStream interface {
	Send(*pb.Answers) error
	Recv() (*pb.Batch, error)
	Context() context.Context
}

// PanicError is what [Serve] returns when answer panicked. The peer gets codes.Internal
// without details.
type PanicError struct {
	Value any
	Stack []byte // of answer
}

func (e *PanicError) Error() string { return fmt.Sprintf("answering a batch panicked: %v", e.Value) }

// GRPCStatus returns what the peer gets.
func (e *PanicError) GRPCStatus() *status.Status {
	return status.New(codes.Internal, "internal error")
}

// Serve answers batches until the peer ends the stream or stop is closed. After
// stop it finishes the current batch and returns nil, which ends the stream with OK,
// so that the peer sends its unanswered calls elsewhere. A batch that is read after
// the stream has ended is not answered.
//
// Answer returns one result per item, which may be encoded in unknown fields; it
// may reuse the memory of the answers for the next batch. Serve sets the sequence.
//
// Answer is called by one goroutine, which Serve starts, and never after Serve has
// returned. That goroutine may then still be in Recv: it ends with the stream's
// context, which gRPC cancels when the handler returns.
func Serve(s ServerStream, stop <-chan struct{}, answer func(*pb.Batch) *pb.Answers) error {
	e := exchange{stream: s, answer: answer, busy: make(chan struct{}, 1)}
	done := make(chan error, 1) // buffered: Serve may have returned
	go func() { done <- e.run() }()
	select {
	case err := <-done:
		return err
	case <-stop:
	}
	e.busy <- struct{}{} // after the current batch; never released
	return e.err
}

type exchange struct {
	stream ServerStream
	answer func(*pb.Batch) *pb.Answers

	sequence uint64 // of the last batch

	// busy is a lock, held while a batch is read and answered, and for good once
	// Serve returns.
	busy chan struct{}
	err  error // why the stream failed; guarded by busy
}

// run answers batches until the stream ends.
func (e *exchange) run() (err error) {
	defer recovered(&err) // Recv decodes
	for {
		batch, err := e.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if more, err := e.serve(batch); !more {
			return err
		}
	}
}

// serve answers one batch, unless Serve has been stopped.
func (e *exchange) serve(batch *pb.Batch) (more bool, err error) {
	select {
	case e.busy <- struct{}{}:
	default:
		return false, nil // Serve has returned, or is about to
	}
	e.err = e.answerOne(batch)
	more, err = e.err == nil, e.err
	<-e.busy
	return more, err
}

func (e *exchange) answerOne(batch *pb.Batch) (err error) {
	defer recovered(&err)
	e.sequence++
	if got := batch.GetSequence(); got != e.sequence {
		return status.Errorf(codes.InvalidArgument, "sequence: must be %d, got %d", e.sequence, got)
	}
	// The peer does not wait for answers any more.
	if err := e.stream.Context().Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	answers := e.answer(batch)
	answers.Sequence = batch.GetSequence()
	return e.stream.Send(answers)
}

// recovered turns a panic into an error, because no interceptor recovers in a
// goroutine that Serve started.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{v, debug.Stack()}
	}
}
