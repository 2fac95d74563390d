// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// A call that is refused because of overload has the status RESOURCE_EXHAUSTED with a
// RetryInfo. Without one that code is something else, such as too many streams.

const (
	// ErrorDomain is the domain of the ErrorInfo in a status.
	ErrorDomain = "bucketring"
	// ReasonOverloaded is its reason in a refusal because of overload.
	ReasonOverloaded = "overloaded"
)

// RefusalStatus returns the status of a refusal.
func RefusalStatus(message string, retryAfter time.Duration) *status.Status {
	plain := status.New(codes.ResourceExhausted, message)
	full, err := plain.WithDetails(
		&errdetails.ErrorInfo{Reason: ReasonOverloaded, Domain: ErrorDomain},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)},
	)
	if err != nil {
		return plain
	}
	return full
}

// RetryAfter returns when a refused call may be sent again, and whether s is a refusal.
func RetryAfter(s *status.Status) (d time.Duration, refused bool) {
	if s.Code() != codes.ResourceExhausted {
		return 0, false
	}
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return retry.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}
