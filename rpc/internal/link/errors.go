// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/codec"
)

// Errors of a call that has no answer. [MayBeDecided] reports whether the member may have
// decided the call all the same.
var (
	ErrBroken      = errors.New("connection is broken")
	ErrBreakerOpen = errors.New("breaker is open")               // not sent
	ErrQueueFull   = errors.New("queue is full")                 // not sent
	ErrTimeout     = errors.New("no answer within the deadline") // of the call
	ErrClosed      = errors.New("link is closed")
	ErrOverloaded  = errors.New("more is asked than the member answers in time") // not sent; an OverloadedError
)

// MaxRetryAfter is the longest time that an OverloadedError names.
const MaxRetryAfter = 256 * time.Millisecond

// OverloadedError is the error of a call that was refused before it was sent, because
// the member would not answer it in time. It wraps ErrOverloaded.
type OverloadedError struct {
	RetryAfter time.Duration // how long until it is worth trying again
}

// Error implements error.
func (e *OverloadedError) Error() string {
	return fmt.Sprintf("%v: try again in %s", ErrOverloaded, e.RetryAfter)
}

// Is reports whether target is ErrOverloaded.
func (e *OverloadedError) Is(target error) bool { return target == ErrOverloaded }

// GRPCStatus returns the status that a node would refuse the call with.
func (e *OverloadedError) GRPCStatus() *status.Status {
	return codec.RefusalStatus(e.Error(), e.RetryAfter)
}

// overloaded has the errors for retries after 1, 2, 3... ms, so that a refusal allocates
// nothing.
var overloaded = func() (errs [MaxRetryAfter/time.Millisecond + 1]OverloadedError) {
	for ms := range errs {
		errs[ms].RetryAfter = time.Duration(max(ms, 1)) * time.Millisecond
	}
	return errs
}()

// refusal returns the error for a retry after d, rounded up.
func refusal(d time.Duration) *OverloadedError {
	ms := (d + time.Millisecond - 1) / time.Millisecond
	return &overloaded[min(max(int(ms), 1), len(overloaded)-1)]
}

// timeoutError is the ErrTimeout of a call that was started.
type timeoutError struct{ sent, alive bool }

func (e *timeoutError) Error() string {
	switch {
	case !e.sent:
		return ErrTimeout.Error() + ": the call was not sent in time"
	case e.alive:
		return ErrTimeout.Error() + ": the member is slow"
	}
	return ErrTimeout.Error()
}

func (e *timeoutError) Is(target error) bool { return target == ErrTimeout }

// timeouts has the errors by sent and alive.
var timeouts = [2][2]*timeoutError{{{false, false}, {false, true}}, {{true, false}, {true, true}}}

// timeoutLocked returns the error of a call that ran out of time or patience. A member that
// answered after the call was started, and has been silent since then for long, may be gone.
func (l *Link) timeoutLocked(p *Pending, now int64) error {
	if last := l.mu.admission.lastAnswer; last <= p.started || now-last >= l.mu.breaker.patience() || now < p.deadline {
		return timeouts[min(p.sends, 1)][0]
	}
	if p.sends == 0 {
		return l.unsentLocked(now)
	}
	return timeouts[1][1]
}

// unsentLocked returns the error of a call that is not sent in time to a member that
// answers.
func (l *Link) unsentLocked(now int64) error {
	if !l.mu.admission.crowded(now) {
		return timeouts[0][0]
	}
	return timeouts[0][1]
}

// unsentError is the error of a call that had not been sent.
type unsentError struct{ error }

func (e *unsentError) Unwrap() error { return e.error }

// MayBeDecided reports whether a call that ended with err may have been decided by the
// member. Of a call whose caller stopped waiting that is not known.
func MayBeDecided(err error) bool {
	if e, ok := errors.AsType[*timeoutError](err); ok {
		return e.sent
	}
	if _, unsent := errors.AsType[*unsentError](err); unsent {
		return false
	}
	return errors.Is(err, ErrTimeout) || errors.Is(err, ErrBroken) || errors.Is(err, ErrClosed) || errors.Is(err, ErrAnswer) || errors.Is(err, context.Canceled)
}

// IsSlow reports whether err is an ErrTimeout, and the member has answered other calls
// since the call was started, and lately: it is not gone, and to ask another member in its
// place would only add load. A call that was not sent, or has patience, and is not one of too
// many, is not reported: another member may answer it.
func IsSlow(err error) bool {
	e, ok := errors.AsType[*timeoutError](err)
	return ok && e.alive
}
