// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// fieldFlag is a flag that sets a field of a request body. Without the flag, the
// field is absent.
type fieldFlag struct {
	body  body
	field string
	kind  string // string, int, duration (as whole seconds, or wait) or name=int
	wait  bool   // a duration is how long a call may wait, with fractions

	choices []string // of a string; nil: any
}

// String implements pflag.Value. These flags have no defaults.
func (f *fieldFlag) String() string { return "" }

// Type implements pflag.Value.
func (f *fieldFlag) Type() string { return f.kind }

// Set implements pflag.Value.
func (f *fieldFlag) Set(text string) error {
	switch f.kind {
	case "string":
		if f.choices != nil {
			if err := (&choiceFlag{new(string), f.choices, f.kind}).Set(text); err != nil {
				return err
			}
		}
		f.body[f.field] = text
	case "int":
		n, err := wholeNumber(text)
		if err != nil {
			return err
		}
		f.body[f.field] = n
	case "duration":
		d, err := time.ParseDuration(text)
		if f.wait {
			if err != nil || d < 0 || d > longestWait {
				return errors.New("must be a time from 0s to 10m, such as 5s")
			}
			f.body[f.field] = d.Seconds()
			return nil
		}
		if err != nil || d <= 0 || d%time.Second != 0 {
			return errors.New("must be whole seconds, such as 30s or 5m")
		}
		f.body[f.field] = int64(d / time.Second)
	default:
		name, amount, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return errors.New("must be a dimension and an amount, such as images=2")
		}
		n, err := wholeNumber(amount)
		if err != nil {
			return err
		}
		costs, _ := f.body[f.field].(map[string]int64)
		if costs == nil {
			costs = map[string]int64{}
			f.body[f.field] = costs
		}
		costs[name] = n
	}
	return nil
}

// longestWait is the longest wait that nodes accept.
const longestWait = 10 * time.Minute

func wholeNumber(text string) (int64, error) {
	n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
	if err != nil {
		return 0, errors.New("must be a whole number")
	}
	return n, nil
}

// fieldName returns the field of the JSON API for a flag.
func fieldName(flag string) string { return strings.ReplaceAll(flag, "-", "_") }
