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

// ServerStream is the other end of a [Stream]. Send must not keep the answers.
type ServerStream interface {
	Send(*pb.Answers) error
	Recv() (*pb.Batch, error)
	Context() context.Context
}

// PanicError is what Serve returns when answer panicked. To the peer it is no
// more than an internal error.
type PanicError struct {
	Value any
	Stack []byte // of answer
}

func (e *PanicError) Error() string { return fmt.Sprintf("answering a batch panicked: %v", e.Value) }

// GRPCStatus is what the peer gets.
func (e *PanicError) GRPCStatus() *status.Status {
	return status.New(codes.Internal, "internal error")
}

// Serve answers batches until the peer ends the stream, or stop is closed: then
// it finishes the batch at hand and returns nil, so that the peer sends what is
// unanswered to somebody else. A batch whose stream has ended is not answered.
//
// Answer returns one result per item, which may be encoded already, as unknown
// fields, and may use the same memory for the next batch; Serve numbers the
// answers. It is called by
// one goroutine, which Serve starts, and not after Serve has returned. That
// goroutine may still be waiting in Recv then: it ends when the stream's context
// does, which the return of a gRPC handler brings about.
func Serve(s ServerStream, stop <-chan struct{}, answer func(*pb.Batch) *pb.Answers) error {
	e := exchange{stream: s, answer: answer, turn: make(chan struct{}, 1)}
	done := make(chan error, 1) // one error, whether or not somebody waits for it
	go func() { done <- e.run() }()
	select {
	case err := <-done:
		return err
	case <-stop:
	}
	e.turn <- struct{}{} // waits for the batch at hand, and is never taken back
	return e.err
}

type exchange struct {
	stream ServerStream
	answer func(*pb.Batch) *pb.Answers

	sequence uint64 // of the last batch

	// turn has its one place taken by who may look at a batch, until it has
	// answered it; for good, once nobody may.
	turn chan struct{}
	err  error // guarded by turn: the stream did not end well
}

// run answers batches until the stream ends.
func (e *exchange) run() (err error) {
	defer recovered(&err) // of Recv, which decodes
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

// serve answers one batch, unless it is too late for that.
func (e *exchange) serve(batch *pb.Batch) (more bool, err error) {
	select {
	case e.turn <- struct{}{}:
	default:
		return false, nil // Serve has returned, or is about to
	}
	e.err = e.answerOne(batch)
	more, err = e.err == nil, e.err
	<-e.turn
	return more, err
}

func (e *exchange) answerOne(batch *pb.Batch) (err error) {
	defer recovered(&err)
	e.sequence++
	if got := batch.GetSequence(); got != e.sequence {
		return status.Errorf(codes.InvalidArgument, "sequence: must be %d, got %d", e.sequence, got)
	}
	// The peer has given up what it does not wait for.
	if err := e.stream.Context().Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	answers := e.answer(batch)
	answers.Sequence = batch.GetSequence()
	return e.stream.Send(answers)
}

// recovered turns a panic into an error: no interceptor sees it in a goroutine
// of ours.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{v, debug.Stack()}
	}
}
