// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// unavailable is the result of a call that no member could decide.
func unavailable(message string) *pb.Result {
	return server.Failed(grpcstatus.Error(codes.Unavailable, message))
}

// wrongField is an error of a request, as the local service makes them.
func wrongField(field, value, problem string) error {
	return server.ErrorOf(server.Failed(&limiter.FieldError{Field: field, Value: value, Problem: problem}))
}

// code returns why a call has no answer, or OK.
func code(r *pb.Result) codes.Code { return codes.Code(r.GetError().GetCode()) }
