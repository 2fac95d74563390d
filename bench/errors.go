// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"time"
)

// ErrNoReservations is returned by targets that support checks only.
var ErrNoReservations = errors.New("the target has no reservations")

// ErrOverloaded is the error of a check or reserve that was refused because more is asked
// than can be answered in time. Nothing was decided, and nothing may have been charged;
// an auditor finds it if it was. Targets return an [OverloadedError].
var ErrOverloaded = errors.New("refused because of overload")

// OverloadedError is an [ErrOverloaded] with details.
type OverloadedError struct {
	// RetryAfter is the time after which the call may be sent again; 0 if the limiter did
	// not say it.
	RetryAfter time.Duration
	// HeldBack says that the target did not send the call, because the limiter refused
	// others. Latencies leave such calls out.
	HeldBack bool
}

// Error implements error.
func (e *OverloadedError) Error() string {
	if e.HeldBack {
		return ErrOverloaded.Error() + ", and not sent"
	}
	return ErrOverloaded.Error()
}

// Is makes errors.Is find [ErrOverloaded].
func (e *OverloadedError) Is(target error) bool { return target == ErrOverloaded }

// refusal returns the details of an [ErrOverloaded], or nil if err is another error.
func refusal(err error) *OverloadedError {
	if e, ok := err.(*OverloadedError); ok { // the common case, without a search
		return e
	}
	if e, ok := errors.AsType[*OverloadedError](err); ok {
		return e
	}
	if errors.Is(err, ErrOverloaded) {
		return &OverloadedError{}
	}
	return nil
}
