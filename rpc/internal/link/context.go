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
	at       time.Time
	patience time.Duration
	inTurn   bool
}

// WithDeadline returns ctx with the given deadline. The result is a value, so that
// a caller can embed it in a struct of its own.
func WithDeadline(ctx context.Context, at time.Time) DeadlineContext {
	return DeadlineContext{Context: ctx, at: at}
}

// WithPatience returns a context whose calls also end, with ErrTimeout, once they have
// waited for so long without any answer of the member, to these or other calls. They wait
// longer if round trips are long. A call to a member that is slow, and not gone, so waits
// until its deadline. A [Link] needs a pointer to the context for that.
func (d DeadlineContext) WithPatience(patience time.Duration) DeadlineContext {
	d.patience = patience
	return d
}

// Deadline implements context.Context.
func (d DeadlineContext) Deadline() (time.Time, bool) { return d.at, true }

// InTurn returns a context whose calls never overtake each other in the queue of a link,
// though some may be more urgent than others. As with patience, a pointer is needed.
func (d DeadlineContext) InTurn() DeadlineContext {
	d.inTurn = true
	return d
}
