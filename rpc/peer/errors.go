// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

const errorDomain = "bucketring"

// restored is an error that came from another member. It looks like one that
// was made here: the same text, gRPC status and kind.
type restored struct{ from *pb.Error }

func restore(e *pb.Error) error { return &restored{e} }

func (e *restored) Error() string { return e.from.GetMessage() }

func (e *restored) Is(target error) bool {
	switch codes.Code(e.from.GetCode()) {
	case codes.NotFound:
		return target == limiter.ErrUnknownReservation
	case codes.AlreadyExists:
		return target == limiter.ErrConflict
	}
	return false
}

// GRPCStatus is how grpc-go finds out what to send.
func (e *restored) GRPCStatus() *grpcstatus.Status {
	plain := grpcstatus.New(codes.Code(e.from.GetCode()), e.from.GetMessage())
	var detail protoadapt.MessageV1
	switch plain.Code() {
	case codes.InvalidArgument:
		field := e.from.GetField()
		if field == "" {
			return plain
		}
		detail = &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{
			Field:       field,
			Description: strings.TrimPrefix(e.from.GetMessage(), field+": "),
		}}}
	case codes.NotFound:
		detail = &errdetails.ErrorInfo{Reason: server.ReasonUnknownReservation, Domain: errorDomain}
	case codes.AlreadyExists:
		detail = &errdetails.ErrorInfo{Reason: server.ReasonConflict, Domain: errorDomain}
	default:
		return plain
	}
	if full, err := plain.WithDetails(detail); err == nil {
		return full
	}
	return plain
}

// failed is the result of a call that ended with an error.
func failed(err error) *pb.Result {
	return &pb.Result{Result: &pb.Result_Error{Error: server.Describe(err)}}
}

// unavailable is the result of a call that nobody could decide.
func unavailable(message string) *pb.Result {
	return failed(grpcstatus.Error(codes.Unavailable, message))
}

// wrongField is an error of a request, as the local service makes them.
func wrongField(field, value, problem string) error {
	return restore(&pb.Error{
		Code:    int32(codes.InvalidArgument),
		Message: (&limiter.FieldError{Field: field, Value: value, Problem: problem}).Error(),
		Field:   field,
	})
}

// errorOf returns the error of a result; nil if it is an answer.
func errorOf(r *pb.Result) error {
	if e := r.GetError(); e != nil {
		return restore(e)
	}
	return nil
}

// code returns why a call has no answer, or OK.
func code(r *pb.Result) codes.Code { return codes.Code(r.GetError().GetCode()) }
