// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"strconv"
)

// Error says what is wrong with one part of a specification.
type Error struct {
	Part    string // keys, tiers, ...; empty: a mix whose part is not known
	Value   string // as it was written
	Problem string
	Hint    string // what to write; may be empty
}

func (e *Error) Error() string {
	text := quote(e.Value) + ": " + e.Problem
	if e.Part != "" {
		text = e.Part + ": " + text
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// quote shows text in a message, cut when it is long.
func quote(s string) string {
	const most = 64
	if r := []rune(s); len(r) > most {
		return strconv.Quote(string(r[:most])) + "..."
	}
	return strconv.Quote(s)
}

// in names the part and the value that err is about, and adds the hint unless err
// has a better one.
func in(part, value, hint string, err error) error {
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

// hinted is a problem with a hint of its own; [in] adds the rest.
func hinted(hint, format string, args ...any) error {
	return &Error{Problem: fmt.Sprintf(format, args...), Hint: hint}
}
