// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"time"
)

// DeadlineContext is a context whose Deadline is earlier than that of its parent.
// It has no timer: Done and Err are the parent's. A [Link] keeps the deadline all
// the same.
type DeadlineContext struct {
	context.Context
	at time.Time
}

// WithDeadline returns ctx with the given deadline. The result is a value, so that
// a caller can embed it in a struct of its own.
func WithDeadline(ctx context.Context, at time.Time) DeadlineContext {
	return DeadlineContext{ctx, at}
}

// Deadline implements context.Context.
func (d DeadlineContext) Deadline() (time.Time, bool) { return d.at, true }
