// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"errors"
	"fmt"
	"strconv"
)

// Errors that callers distinguish. All of them mean that no decision was made and
// no state changed.
var (
	// ErrUnknownReservation means that no reservation with that id is known under
	// the key's root.
	ErrUnknownReservation = errors.New("unknown reservation")
	// ErrConflict means that the request id was used before with another operation
	// or other numbers, or that its reservation has ended in another way.
	ErrConflict = errors.New("request_id_conflict")
	// ErrWithdrawn means that this attempt of a call was withdrawn before it
	// arrived.
	ErrWithdrawn = errors.New("attempt was withdrawn before it arrived")
	// ErrClosed means that the engine does not decide for the key's partition, see
	// [Engine.Close].
	ErrClosed = errors.New("partition is closed")
)

// FieldError reports an invalid field of a request.
type FieldError struct {
	Field   string // its name in the wire formats
	Value   string
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: %s, got %s", e.Field, e.Problem, e.Value)
}

func numberError(field string, n int64, problem string) *FieldError {
	return &FieldError{Field: field, Value: strconv.FormatInt(n, 10), Problem: problem}
}

// ConflictError matches [ErrConflict] and says what the conflict is, without its code: each
// API names that in its own form.
type ConflictError struct{ Problem string }

// Error implements error.
func (e *ConflictError) Error() string { return e.Problem }

// Is reports whether target is [ErrConflict].
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }
