// SPDX-License-Identifier: Apache-2.0

// Package await has both ends of the streams on which calls wait until they are admitted: the
// [Asker] sends calls and leaves, and [Serve] answers them. Members and the client library
// share this code. It decides nothing.
//
// A stream carries the calls of many callers, and each is answered on its own, in any order.
// A waiting call has no goroutine and no timer here. Calls that wait when a stream ends are not
// answered, and are to be asked again.
package await

import (
	"context"
	"errors"
	"fmt"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Stream is the asker's end of a stream, as gRPC generates it. Send is called by one goroutine
// at a time, Recv by another. Send must not keep the message.
type Stream interface {
	Send(*pb.WaitMessage) error
	Recv() (*pb.WaitAnswer, error)
}

// MaxWaiting is the most calls of one [Asker] that wait.
const MaxWaiting = 16_384

// Errors of a call that has no answer. [MayBeDecided] reports whether it may have been decided
// all the same.
var (
	ErrBroken = errors.New("stream of waiting calls ended") // wraps the error of the stream
	ErrFull   = fmt.Errorf("more than %d calls wait", MaxWaiting)
	ErrClosed = errors.New("asker is closed")
)

// unsentError is the error of a call that was not sent.
type unsentError struct{ error }

func (e *unsentError) Unwrap() error { return e.error }

// MayBeDecided reports whether a call that ended with err may have been decided.
func MayBeDecided(err error) bool {
	if _, unsent := errors.AsType[*unsentError](err); unsent {
		return false
	}
	return err != nil && !errors.Is(err, ErrFull)
}

func broken(cause error) error { return fmt.Errorf("%w: %w", ErrBroken, cause) }

// New returns an asker that opens a stream when a call waits, and ends it when none has waited
// for a while. open starts a stream, which ends when ctx does. It may block while a connection
// is being established.
func New(open func(ctx context.Context) (Stream, error)) *Asker { return &Asker{open: open} }

// Ask sends item and waits for its result. When ctx ends, the call leaves, and the error is
// that of ctx; it may have been decided. The item must not be changed afterwards.
func (a *Asker) Ask(ctx context.Context, item *pb.Item) (*pb.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type answer struct {
		result *pb.Result
		err    error
	}
	answers := make(chan answer, 1)
	leave := a.Start(item, func(r *pb.Result, err error) { answers <- answer{r, err} })
	select {
	case got := <-answers:
		return got.result, got.err
	case <-ctx.Done():
	}
	leave()
	select {
	case got := <-answers: // it came first
		return got.result, got.err
	default:
		return nil, ctx.Err()
	}
}
