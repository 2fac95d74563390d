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

// Errors that a caller tells apart, with [errors.Is].
var (
	// ErrUnreachable: no node answered in time. The error also wraps the gRPC
	// status of the last attempt, and [context.DeadlineExceeded] if it ran out
	// of time.
	ErrUnreachable = errors.New("no node could be reached")
	// ErrUnknownReservation: no reservation with that request id is known under
	// the key.
	ErrUnknownReservation = errors.New("unknown reservation")
	// ErrConflict: the request id was used for something else, or the
	// reservation has ended in another way.
	ErrConflict = errors.New("request id conflict")
)

// InvalidError says that a node refused a request as it stands.
type InvalidError struct {
	Field   string // as in the wire formats, "input_tokens"; "" if no field is at fault
	Message string

	status error
}

// Error implements error.
func (e *InvalidError) Error() string { return "invalid request: " + e.Message }

// Unwrap returns the gRPC status of the answer.
func (e *InvalidError) Unwrap() error { return e.status }

// refusal is a node's own answer, as one of the errors of this package where
// there is one. It keeps the gRPC status.
type refusal struct {
	kind   error
	status error
}

func (e *refusal) Error() string {
	said := status.Convert(e.status).Message()
	if said == e.kind.Error() {
		return said
	}
	return e.kind.Error() + ": " + said
}

func (e *refusal) Unwrap() []error { return []error{e.kind, e.status} }

// explain translates the status error of an answer that is not to be retried.
func explain(err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.NotFound:
		return &refusal{ErrUnknownReservation, err}
	case codes.AlreadyExists:
		return &refusal{ErrConflict, err}
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

// unreachable is the end of the last attempt.
type unreachable struct {
	addr     string
	attempts int
	err      error
}

func (e *unreachable) Error() string {
	return fmt.Sprintf("%v: attempt %d, %s: %s", ErrUnreachable, e.attempts, e.addr, status.Convert(e.err).Message())
}

func (e *unreachable) Unwrap() []error {
	errs := []error{ErrUnreachable, e.err}
	if status.Code(e.err) == codes.DeadlineExceeded {
		errs = append(errs, context.DeadlineExceeded)
	}
	return errs
}

// late is the end of a call that came with a context that was done.
func late(ctx context.Context) error {
	if err := ctx.Err(); err != context.DeadlineExceeded {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
}
