// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/tlserror"
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/internal/link"
)

// Errors to be tested for with [errors.Is].
var (
	// ErrUnreachable means that no node answered in time. The error also wraps the
	// gRPC status of the last attempt, and [context.DeadlineExceeded] if the time ran
	// out.
	ErrUnreachable = errors.New("no node could be reached")
	// ErrOverloaded means that the call was refused at once, because more is asked than
	// can be answered in time. Nothing was charged, and no other node would answer
	// sooner. The error is an [OverloadedError].
	ErrOverloaded = errors.New("overloaded")
	// ErrUnknownReservation means that there is no reservation with that request id
	// under the key.
	ErrUnknownReservation = errors.New("unknown reservation")
	// ErrConflict means that the request id was used for another call, or that the
	// reservation has already ended differently.
	ErrConflict = errors.New("request id conflict")
	// ErrClosed means that the client was closed. A call that was in flight then may have been
	// charged: its error also wraps a gRPC status.
	ErrClosed = errors.New("client is closed")
)

// OverloadedError is an [ErrOverloaded] that says when to try again. It has a gRPC
// status with the code RESOURCE_EXHAUSTED and a RetryInfo.
type OverloadedError struct {
	RetryAfter time.Duration // more than 0

	message string // of the node; "": this client refused the call
}

// Error implements error.
func (e *OverloadedError) Error() string {
	if strings.Contains(e.message, "again after") { // it says that it is overloaded, and until when
		return e.message
	}
	return fmt.Sprintf("%v: %s: try again in %s", ErrOverloaded, cmp.Or(e.message, "more is asked than the owner answers in time"), e.RetryAfter)
}

// Is reports whether target is ErrOverloaded.
func (e *OverloadedError) Is(target error) bool { return target == ErrOverloaded }

// GRPCStatus returns the status of the refusal.
func (e *OverloadedError) GRPCStatus() *status.Status {
	return codec.RefusalStatus(e.Error(), e.RetryAfter)
}

func overloaded(retryAfter time.Duration, message string) error {
	return &OverloadedError{RetryAfter: max(retryAfter, time.Millisecond), message: message}
}

// refusals has the errors of calls that links refuse, for retries after 1, 2, 3... ms. Under
// overload most calls end so, and allocate nothing. So they name neither the call nor its key.
var refusals = func() (errs [link.MaxRetryAfter/time.Millisecond + 1]OverloadedError) {
	for ms := range errs {
		errs[ms].RetryAfter = time.Duration(max(ms, 1)) * time.Millisecond
	}
	return errs
}()

// overloadedByLink returns the error for a link.ErrOverloaded.
func overloadedByLink(err error) *OverloadedError {
	from, _ := err.(*link.OverloadedError)
	if from == nil { // else the common case, without a search
		from, _ = errors.AsType[*link.OverloadedError](err)
	}
	if from == nil {
		return &refusals[1]
	}
	return &refusals[min(max(from.RetryAfter/time.Millisecond, 0), link.MaxRetryAfter/time.Millisecond)]
}

// callFailure is the error of a call. It is formatted only when it is read, because under
// overload most calls fail.
type callFailure struct {
	verb, key string
	err       error
}

func (e *callFailure) Error() string { return e.verb + " " + e.key + ": " + e.err.Error() }
func (e *callFailure) Unwrap() error { return e.err }

// InvalidError means that a request is invalid. Nothing was charged.
type InvalidError struct {
	Field   string // named as in the wire formats, "input_tokens"; "" if no field is at fault
	Message string

	status error
}

// Error implements error.
func (e *InvalidError) Error() string { return "invalid request: " + e.Message }

// Unwrap returns the gRPC status of the node.
func (e *InvalidError) Unwrap() error { return e.status }

// statusError is the gRPC status of a node with the error of this package that it
// stands for.
type statusError struct {
	kind   error
	status error
}

func (e *statusError) Error() string {
	message := status.Convert(e.status).Message()
	if message == e.kind.Error() {
		return message
	}
	return e.kind.Error() + ": " + message
}

func (e *statusError) Unwrap() []error { return []error{e.kind, e.status} }

// callError returns the error of this package for a status that is not retried, or
// err if there is none.
func callError(err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.NotFound:
		return &statusError{ErrUnknownReservation, err}
	case codes.AlreadyExists:
		return &statusError{ErrConflict, err}
	case codes.InvalidArgument:
		return invalid(s)
	case codes.ResourceExhausted:
		if d, refused := codec.RetryAfter(s); refused {
			return overloaded(d, s.Message())
		}
	}
	return err
}

func invalid(s *status.Status) *InvalidError {
	e := &InvalidError{Message: s.Message(), status: s.Err()}
	for _, detail := range s.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok && len(bad.GetFieldViolations()) > 0 {
			e.Field = bad.GetFieldViolations()[0].GetField()
			break
		}
	}
	return e
}

// unreachableError is the ErrUnreachable of the last attempt.
type unreachableError struct {
	addr    string
	attempt int
	err     error
}

func (e *unreachableError) Error() string {
	message := status.Convert(e.err).Message()
	if hint := tlserror.RemedyOf(message); hint != "" && !strings.Contains(message, hint) {
		message += ": " + hint
	}
	return fmt.Sprintf("%v: attempt %d, %s: %s", ErrUnreachable, e.attempt, e.addr, message)
}

func (e *unreachableError) Unwrap() []error {
	errs := []error{ErrUnreachable, e.err}
	if status.Code(e.err) == codes.DeadlineExceeded {
		errs = append(errs, context.DeadlineExceeded)
	}
	return errs
}

// contextError is the error of a call whose context ended before it was sent.
func contextError(ctx context.Context) error {
	if err := ctx.Err(); err != context.DeadlineExceeded {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
}
