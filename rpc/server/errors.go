// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Reasons in the ErrorInfo detail of a status.
const (
	// ReasonUnknownReservation comes with NotFound.
	ReasonUnknownReservation = "unknown_reservation"
	// ReasonConflict comes with AlreadyExists.
	ReasonConflict = "request_id_conflict"

	errorDomain = "bucketring"
)

// wireError is an error with a gRPC status. The cause stays within reach of
// errors.Is and errors.As for callers in this process.
type wireError struct{ cause error }

func wire(err error) error { return &wireError{err} }

func (e *wireError) Error() string { return e.cause.Error() }
func (e *wireError) Unwrap() error { return e.cause }

// GRPCStatus is how grpc-go finds out what to send.
func (e *wireError) GRPCStatus() *grpcstatus.Status {
	var field *limiter.FieldError
	switch err := e.cause; {
	case errors.As(err, &field):
		return detailed(codes.InvalidArgument, err, &errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{
				Field:       field.Field,
				Description: field.Problem + ", got " + field.Value,
			}},
		})
	case errors.Is(err, limiter.ErrUnknownReservation):
		return detailed(codes.NotFound, err, &errdetails.ErrorInfo{Reason: ReasonUnknownReservation, Domain: errorDomain})
	case errors.Is(err, limiter.ErrConflict):
		return detailed(codes.AlreadyExists, err, &errdetails.ErrorInfo{Reason: ReasonConflict, Domain: errorDomain})
	case errors.Is(err, limiter.ErrWithdrawn): // its caller has given up
		return grpcstatus.New(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return grpcstatus.FromContextError(err)
	}
	return grpcstatus.New(codes.Internal, e.Error())
}

func detailed(code codes.Code, err error, detail protoadapt.MessageV1) *grpcstatus.Status {
	plain := grpcstatus.New(code, err.Error())
	if full, err := plain.WithDetails(detail); err == nil {
		return full
	}
	return plain
}

// Describe takes an error of the service apart, whether it was made here or
// came over gRPC. It is what a batch says of an item without an answer.
func Describe(err error) *pb.Error {
	if field, ok := errors.AsType[*limiter.FieldError](err); ok {
		return &pb.Error{Code: int32(codes.InvalidArgument), Message: field.Error(), Field: field.Field}
	}
	st := grpcstatus.Convert(err)
	e := &pb.Error{Code: int32(st.Code()), Message: st.Message()}
	for _, detail := range st.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok && len(bad.GetFieldViolations()) > 0 {
			e.Field = bad.GetFieldViolations()[0].GetField()
		}
	}
	return e
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
