// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Reasons in the ErrorInfo detail of a status.
const (
	// ReasonUnknownReservation comes with NotFound.
	ReasonUnknownReservation = "unknown_reservation"
	// ReasonConflict comes with AlreadyExists.
	ReasonConflict = "request_id_conflict"
	// ReasonOverloaded comes with ResourceExhausted, and with a RetryInfo: more is asked
	// than can be answered in time, and the call was refused before anything was done.
	ReasonOverloaded = codec.ReasonOverloaded
)

// callError is the error of a call, in the form of the wire. So errors of this member
// and of others are the same.
type callError struct {
	described *pb.Error
	status    *grpcstatus.Status // if it was made already
}

// wire returns err with a gRPC status.
func wire(err error) error { return &callError{described: Describe(err)} }

// Overloaded returns the error of a call that is refused before anything is done,
// because more is asked than can be answered in time. It may be sent again after
// retryAfter, which is rounded up to whole milliseconds.
func Overloaded(message string, retryAfter time.Duration) error {
	ms := max(int64((retryAfter+time.Millisecond-1)/time.Millisecond), 1)
	return &callError{described: &pb.Error{Code: int32(codes.ResourceExhausted), Message: message, RetryAfterMs: ms}}
}

// ErrorOf returns the error of a result; nil if it is an answer.
func ErrorOf(r *pb.Result) error {
	if e := r.GetError(); e != nil {
		return &callError{described: e}
	}
	return nil
}

func (e *callError) Error() string { return e.described.GetMessage() }

// Is makes errors.Is find the limiter's errors, and those of contexts.
func (e *callError) Is(target error) bool {
	switch codes.Code(e.described.GetCode()) {
	case codes.NotFound:
		return target == limiter.ErrUnknownReservation
	case codes.AlreadyExists:
		return target == limiter.ErrConflict
	case codes.Canceled:
		return target == context.Canceled
	case codes.DeadlineExceeded:
		return target == context.DeadlineExceeded
	}
	return false
}

// GRPCStatus is how grpc-go finds out what to send.
func (e *callError) GRPCStatus() *grpcstatus.Status {
	if e.status != nil {
		return e.status
	}
	plain := grpcstatus.New(codes.Code(e.described.GetCode()), e.described.GetMessage())
	var detail protoadapt.MessageV1
	switch plain.Code() {
	case codes.ResourceExhausted:
		ms := e.described.GetRetryAfterMs()
		if ms == 0 {
			return plain
		}
		return codec.RefusalStatus(e.described.GetMessage(), time.Duration(ms)*time.Millisecond)
	case codes.InvalidArgument:
		field := e.described.GetField()
		if field == "" {
			return plain
		}
		detail = &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{
			Field:       field,
			Description: strings.TrimPrefix(e.described.GetMessage(), field+": "),
		}}}
	case codes.NotFound:
		detail = &errdetails.ErrorInfo{Reason: ReasonUnknownReservation, Domain: codec.ErrorDomain}
	case codes.AlreadyExists:
		detail = &errdetails.ErrorInfo{Reason: ReasonConflict, Domain: codec.ErrorDomain}
	default:
		return plain
	}
	if full, err := plain.WithDetails(detail); err == nil {
		return full
	}
	return plain
}

// Describe converts an error of the limiter, of a context or of gRPC to the form of the
// wire. The code of any other error is Internal.
func Describe(err error) *pb.Error {
	if e, ok := errors.AsType[*callError](err); ok {
		return e.described
	}
	if field, ok := errors.AsType[*limiter.FieldError](err); ok {
		return &pb.Error{Code: int32(codes.InvalidArgument), Message: field.Error(), Field: field.Field}
	}
	code := codes.Internal
	switch {
	case errors.Is(err, limiter.ErrUnknownReservation):
		code = codes.NotFound
	case errors.Is(err, limiter.ErrConflict):
		code = codes.AlreadyExists
	case errors.Is(err, limiter.ErrWithdrawn): // the caller has given up: nobody decides instead
		code = codes.Aborted
	default:
		if st, ok := grpcstatus.FromError(err); ok {
			return describeStatus(st)
		}
		if st := grpcstatus.FromContextError(err); st.Code() != codes.Unknown {
			return describeStatus(st)
		}
	}
	return &pb.Error{Code: int32(code), Message: err.Error()}
}

func describeStatus(st *grpcstatus.Status) *pb.Error {
	e := &pb.Error{Code: int32(st.Code()), Message: st.Message()}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.BadRequest:
			if len(d.GetFieldViolations()) > 0 {
				e.Field = d.GetFieldViolations()[0].GetField()
			}
		case *errdetails.RetryInfo:
			e.RetryAfterMs = d.GetRetryDelay().AsDuration().Milliseconds()
		}
	}
	return e
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
