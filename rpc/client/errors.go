// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors to be tested for with [errors.Is].
var (
	// ErrUnreachable means that no node answered in time. The error also wraps the
	// gRPC status of the last attempt, and [context.DeadlineExceeded] if the time ran
	// out.
	ErrUnreachable = errors.New("no node could be reached")
	// ErrUnknownReservation means that there is no reservation with that request id
	// under the key.
	ErrUnknownReservation = errors.New("unknown reservation")
	// ErrConflict means that the request id was used for another call, or that the
	// reservation has already ended differently.
	ErrConflict = errors.New("request id conflict")
)

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
	return fmt.Sprintf("%v: attempt %d, %s: %s", ErrUnreachable, e.attempt, e.addr, status.Convert(e.err).Message())
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
