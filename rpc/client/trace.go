// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"

	"google.golang.org/grpc/metadata"
)

// traced makes a call one of a span, see [Options].Trace: its item in a batch, and the metadata
// of unary calls with the context that it returns.
func traced(ctx context.Context, e *envelope, span []byte) context.Context {
	if len(span) != 16+8+1 {
		return ctx
	}
	e.item.Trace = span
	return metadata.AppendToOutgoingContext(ctx, "traceparent", fmt.Sprintf("00-%x-%x-%x", span[:16], span[16:24], span[24:]))
}
