// SPDX-License-Identifier: Apache-2.0

package requestid

import (
	"context"
	"strconv"

	"google.golang.org/grpc/metadata"
)

// attemptKey is the metadata of a unary check or reserve that has the attempt, in
// hexadecimal. Items of batches have a field for it.
const attemptKey = "bucketring-attempt"

// WithAttempt returns a context for a unary call that is an attempt to check or reserve.
func WithAttempt(ctx context.Context, attempt uint64) context.Context {
	return metadata.AppendToOutgoingContext(ctx, attemptKey, strconv.FormatUint(attempt, 16))
}

// AttemptOf returns the attempt of a unary call that was received with ctx. 0: none.
func AttemptOf(ctx context.Context) uint64 {
	values := metadata.ValueFromIncomingContext(ctx, attemptKey)
	if len(values) != 1 {
		return 0
	}
	attempt, err := strconv.ParseUint(values[0], 16, 64)
	if err != nil {
		return 0
	}
	return attempt
}
