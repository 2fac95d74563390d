// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
)

// synonyms are keys that people write for the keys of a policy.
var synonyms = map[string]string{
	"model": "models",
	"rpm":   "requests", "rps": "requests", "rpd": "requests", "tpm": "tokens", "tpd": "tokens", "budget": "spend", "concurrency": "concurrent", "parallel": "concurrent",
	"in": "input", "out": "output", "prompt": "input", "completion": "output",
	"at": "starts", "from": "starts", "begin": "starts", "begins": "starts", "start_at": "starts", "starts_at": "starts",
	"reset": "starts", "resets": "starts", "reset_at": "starts", "anchor": "starts", "day": "starts", "time": "starts",
}

// otherWindows are words that people write for windows.
var otherWindows = map[string]string{
	"hr": "hour", "hrs": "hour", "hours": "hour", "mins": "min", "minutes": "min", "secs": "sec", "seconds": "second", "days": "day", "dy": "day",
	"wk": "week", "weeks": "week", "mo": "month", "mon": "month", "mth": "month", "months": "month", "yr": "year", "years": "year", "hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month", "yearly": "year", "annually": "year",
}

// windowWithStart matches a window and its start in one text, such as "day at 9am" or
// "month, starts: 15".
var windowWithStart = regexp.MustCompile(`^(day|daily|1d|24h|week|weekly|month|monthly)\b[\s,]*(?:@|(?:at|from|on|since|starts|start|starting|begins|beginning)\b)?[\s:]*(?:on\b|at\b|the\b|\s)*(.+)$`)

// startInWindow returns what to write for a window that also says when it starts, or ""
// if it does not. short is the limit in its short form, which has no start, else nil.
func startInWindow(win string, short *limiter.Limit) string {
	m := windowWithStart.FindStringSubmatch(strings.ToLower(win))
	if m == nil {
		return ""
	}
	unit, start := m[1], strings.Trim(m[2], `"'`)
	switch unit {
	case "week", "weekly":
		return "cannot start on another day: a week begins on Monday"
	case "month", "monthly":
		unit = "month"
		if day := dayOfMonth(start); day != "" {
			start = "starts: " + day
		} else {
			start = "starts with a day from 1 to 31"
		}
	default:
		unit = "day"
		if time := clock(start); time != "" {
			start = "starts: " + strconv.Quote(time)
		} else {
			start = `starts with a time from "00:00" to "23:59"`
		}
	}
	if short != nil {
		return fmt.Sprintf("has a start, which is a key of the long form: write { dimension: %s, limit: %s, window: %s, %s } under limits", short.Dimension, FormatAmount(short.Dimension, short.Amount), unit, start)
	}
	return fmt.Sprintf("has a start, which is a key of its own: write window: %s, %s", unit, start)
}

// clockSyntax is a time of the day as people write it.
var clockSyntax = regexp.MustCompile(`^([0-9]{1,2})(?:[:.h]([0-9]{2}))?(?::00)? ?(h|o'clock|uhr|am|pm|a\.m\.|p\.m\.)?$`)

// clock returns a time of the day such as 09:00 for one in another notation, such as 9am.
// It is "" if the text is no time.
func clock(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	switch s {
	case "midnight":
		return "00:00"
	case "noon":
		return "12:00"
	}
	m := clockSyntax.FindStringSubmatch(s)
	if m == nil {
		return ""
	}
	hour, _ := strconv.Atoi(m[1])
	minute, _ := strconv.Atoi(m[2]) // 0 if there are none
	if half := strings.ReplaceAll(m[3], ".", ""); half == "am" || half == "pm" {
		if hour < 1 || hour > 12 {
			return ""
		}
		hour %= 12
		if half == "pm" {
			hour += 12
		}
	}
	if hour > 23 || minute > 59 {
		return ""
	}
	return fmt.Sprintf("%02d:%02d", hour, minute)
}

// dayOfMonth returns a day of the month such as 15 for one in another notation, such as
// 15th. It is "" if the text is none.
func dayOfMonth(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	switch s {
	case "last", "last day", "end":
		return "31"
	case "first", "first day":
		return "1"
	}
	digits := strings.TrimRight(s, "stndrh.")
	if n, err := strconv.Atoi(digits); err == nil && n >= 1 && n <= 31 && len(digits) <= 2 {
		return strconv.Itoa(n)
	}
	return ""
}

// startProblem says what is wrong with the value of starts, and what was probably meant.
func startProblem(c limiter.Calendar, value string) (problem, suggestion string) {
	if c == limiter.Month {
		problem, suggestion = "must be a day of the month from 1 to 31", dayOfMonth(value)
	} else {
		problem, suggestion = `must be a time of the day from "00:00" to "23:59"`, clock(value)
	}
	return problem + ", got " + text.Quote(value), suggestion
}
