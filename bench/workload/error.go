// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"

	"github.com/bucketring/bucketring/internal/text"
)

// Error is a problem in one part of a specification.
type Error struct {
	Part    string // keys, tiers, ...; empty in errors of [ParseMix]
	Value   string // as given
	Problem string
	Hint    string // what to write instead; may be empty
}

func (e *Error) Error() string {
	message := quote(e.Value) + ": " + e.Problem
	if e.Part != "" {
		message = e.Part + ": " + message
	}
	if e.Hint != "" {
		message += "; " + e.Hint
	}
	return message
}

func quote(s string) string { return text.Quote(s) }

// inPart sets the part and the value of err, and its hint unless it has one.
func inPart(part, value, hint string, err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return &Error{part, value, err.Error(), hint}
	}
	if e.Part == "" {
		e.Part, e.Value = part, value
	}
	if e.Hint == "" {
		e.Hint = hint
	}
	return e
}

// withHint returns a problem with its own hint; [inPart] sets the rest.
func withHint(hint, format string, args ...any) error {
	return &Error{Problem: fmt.Sprintf(format, args...), Hint: hint}
}
