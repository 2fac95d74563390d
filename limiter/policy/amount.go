// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// micros is how many millionths one unit has: a dollar, or a weight of 1.
const micros = 1_000_000

// parseCount reads a whole number such as 10_000 or 10k.
func parseCount(s string) (int64, error) { return parseScaled(s, 0) }

// parseDollars reads an amount of money such as $2_000 or $0.25, in micros.
func parseDollars(s string) (int64, error) {
	if amount, ok := strings.CutPrefix(s, "$"); ok {
		return parseScaled(amount, 6)
	}
	if _, err := parseScaled(s, 6); err == nil {
		return 0, fmt.Errorf("must be an amount of money, such as $%s", s)
	}
	return 0, errors.New("must be an amount of money, such as $10")
}

// tooLargeError is the error of a number above [limiter.MaxAmount] units of its last place.
type tooLargeError struct{ places int }

func (e *tooLargeError) Error() string {
	return "is too large: the maximum is " + formatDecimal(limiter.MaxAmount, e.places)
}

// notNumberError is the error of what is no number with at most that many decimal places.
type notNumberError struct{ places int }

func (e *notNumberError) Error() string {
	if e.places == 0 {
		return "must be a number such as 10_000"
	}
	return "must be a number such as 0.25"
}

// parseDecimal reads a decimal with at most the given number of decimal places,
// exactly: the result counts units of the last place. Underscores may stand
// between digits.
func parseDecimal(s string, places int) (int64, error) {
	if strings.HasPrefix(s, "-") {
		return 0, errors.New("must not be negative")
	}
	whole, fraction, hasPoint := strings.Cut(s, ".")
	if hasPoint && places == 0 {
		return 0, errors.New("must be a whole number")
	}
	if !isNumber(whole) || hasPoint && !isNumber(fraction) {
		return 0, &notNumberError{places}
	}
	fraction = strings.ReplaceAll(fraction, "_", "")
	if len(fraction) > places {
		return 0, fmt.Errorf("has more than %d decimals", places)
	}
	digits := strings.ReplaceAll(whole, "_", "") + fraction + strings.Repeat("0", places-len(fraction))
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > limiter.MaxAmount {
		return 0, &tooLargeError{places}
	}
	return n, nil
}

// isNumber reports whether s is digits, with single underscores between them.
func isNumber(s string) bool {
	for i := range len(s) {
		inner := i > 0 && i < len(s)-1 && s[i-1] != '_'
		if (s[i] < '0' || s[i] > '9') && (s[i] != '_' || !inner) {
			return false
		}
	}
	return s != ""
}

// formatDecimal is the inverse of parseDecimal, without trailing zeros.
func formatDecimal(n int64, places int) string {
	unit := int64(1)
	for range places {
		unit *= 10
	}
	s := strconv.FormatInt(n/unit, 10)
	if rest := n % unit; rest != 0 {
		s += strings.TrimRight(fmt.Sprintf(".%0*d", places, rest), "0")
	}
	return s
}

// FormatAmount writes an amount as in a policy file: $0.25 for spend, plain
// digits for every other dimension.
func FormatAmount(d limiter.Dimension, n int64) string {
	if d != limiter.Spend {
		return strconv.FormatInt(n, 10)
	}
	if n < 0 {
		return "-$" + formatDecimal(-n, 6)
	}
	return "$" + formatDecimal(n, 6)
}

// ParseAmount is the inverse of [FormatAmount]. Underscores may stand between digits, and k, M
// or B at the end, for thousands, millions and billions.
func ParseAmount(d limiter.Dimension, s string) (int64, error) {
	if d == limiter.Spend {
		return parseDollars(s)
	}
	if strings.HasPrefix(s, "$") {
		return 0, errors.New("must be a number without $, which only spend has")
	}
	return parseCount(s)
}

// window is a parsed window: its length, and its calendar unit if it was given as
// a word. A month and a year have no fixed length.
type window struct {
	length   time.Duration
	calendar limiter.Calendar
}

const day = 24 * time.Hour

var windowsByName = map[string]window{
	"s": {time.Second, 0}, "sec": {time.Second, 0}, "second": {time.Second, 0},
	"min": {time.Minute, 0}, "minute": {time.Minute, 0},
	"h": {time.Hour, limiter.Hour}, "hour": {time.Hour, limiter.Hour},
	"d": {day, limiter.Day}, "day": {day, limiter.Day},
	"w": {7 * day, limiter.Week}, "week": {7 * day, limiter.Week},
	"month": {0, limiter.Month},
	"y":     {0, limiter.Year}, "year": {0, limiter.Year},
}

// windowNames are the names that messages suggest.
var windowNames = []string{"second", "sec", "minute", "min", "hour", "day", "week", "month", "year"}

// parseWindow reads a word (min, day, month) or a duration (30s, 24h). A word
// from hour up can mean a calendar window, a duration never does. 1d could mean
// either, so it is an error.
func parseWindow(s string) (window, error) {
	if w, ok := windowsByName[s]; ok {
		return w, nil
	}
	switch unit := strings.TrimLeft(s, "0123456789"); {
	case s == "m":
		return window{}, errors.New("is ambiguous: write min or month")
	case unit != s && windowsByName[unit].length >= day:
		return window{}, fmt.Errorf("must not count days: write day, week, month or year for a calendar window, or %sh for a length", inHours(s, unit))
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return window{}, errors.New("must be second, minute, hour, day, week, month, year, or a duration such as 30s")
	}
	if d == 0 {
		return window{}, errors.New("must not be 0")
	}
	if d < 0 {
		return window{}, errors.New("must not be negative")
	}
	return window{length: d}, nil
}

// inHours returns the number of hours in a period such as 7d, for a message.
func inHours(s, unit string) string {
	n, err := strconv.ParseInt(strings.TrimSuffix(s, unit), 10, 32)
	if err != nil {
		return "24"
	}
	return strconv.FormatInt(n*int64(windowsByName[unit].length/time.Hour), 10)
}

// formatWindow writes the window of a limit: 1m, 1h30m, day, "month from 15".
func formatWindow(l *limiter.Limit) string {
	switch l.Calendar {
	case limiter.Hour:
		return "hour"
	case limiter.Day:
		if l.StartMinute != 0 {
			return fmt.Sprintf("day at %02d:%02d", l.StartMinute/60, l.StartMinute%60)
		}
		return "day"
	case limiter.Week:
		return "week"
	case limiter.Month:
		if l.StartDay > 1 {
			return fmt.Sprintf("month from %d", l.StartDay)
		}
		return "month"
	case limiter.Year:
		return "year"
	}
	return FormatDuration(l.Window)
}

// FormatDuration is [time.Duration.String] without zero units at the end: 1m, not
// 1m0s.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
