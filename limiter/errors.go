// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"errors"
	"fmt"
)

// Errors that a caller tells apart. Any of them means that no decision was
// made and nothing has changed.
var (
	// ErrUnknownReservation: no reservation with that id is known under the
	// key's root.
	ErrUnknownReservation = errors.New("unknown reservation")
	// ErrConflict: the request id was used before, with another operation,
	// other numbers, or on a reservation that ended otherwise.
	ErrConflict = errors.New("request_id_conflict")
	// ErrWithdrawn: the sending of a reserve was withdrawn before it came.
	ErrWithdrawn = errors.New("withdrawn before it came")
)

// FieldError names the field of a request that cannot be used.
type FieldError struct {
	Field   string // as in the wire formats
	Value   string
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: %s, got %s", e.Field, e.Problem, e.Value)
}

// ConflictError is an [ErrConflict] that says what conflicts.
type ConflictError struct{ Problem string }

// Error implements error.
func (e *ConflictError) Error() string { return "request_id_conflict: " + e.Problem }

// Is makes errors.Is(err, ErrConflict) hold.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }
