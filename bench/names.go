// SPDX-License-Identifier: Apache-2.0

package bench

import "fmt"

var opNames = [...]string{"", "check", "reserve", "progress", "settle"}

var outcomeNames = [...]string{"", "allowed", "degraded", "denied", "failed", "refused"}

// String returns the lower-case name, or "" for the zero value.
func (o Op) String() string { return nameOf(opNames[:], int(o)) }

// MarshalText returns the name.
func (o Op) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText parses a name.
func (o *Op) UnmarshalText(text []byte) error {
	i, err := parseName(opNames[:], string(text), "operation")
	*o = Op(i)
	return err
}

// String returns the lower-case name, or "" for the zero value.
func (o Outcome) String() string { return nameOf(outcomeNames[:], int(o)) }

// MarshalText returns the name.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText parses a name.
func (o *Outcome) UnmarshalText(text []byte) error {
	i, err := parseName(outcomeNames[:], string(text), "outcome")
	*o = Outcome(i)
	return err
}

func nameOf(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("unknown(%d)", i)
}

func parseName(names []string, name, what string) (int, error) {
	for i, n := range names {
		if n == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("unknown %s %q", what, name)
}
