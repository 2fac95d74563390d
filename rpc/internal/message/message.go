// SPDX-License-Identifier: Apache-2.0

// Package message says in sentences why a call was denied, and in numbers how long
// that lasts and which limit is nearest, for every door that answers people.
package message

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Denied is what is known of a denial.
type Denied struct {
	Reason string // limit_exceeded, exceeds_capacity, no_price, owner_unreachable or table_full
	Model  string // "": the call names none
	Limit  *Limit // the binding one, nil if there is none
}

// spend is counted in millionths of a dollar.
const spend = "spend"

// Limit is a limit as the denial left it.
type Limit struct {
	Dimension string
	Algorithm string
	Limit     int64 // amount per window
	Capacity  int64 // the most that one call can take
	Remaining int64 // 0 in debt
	Debt      int64
	Cost      int64 // what the call would have taken
	Window    time.Duration
}

// Of says in a sentence or two why a call was denied, to the person who made it.
func Of(d Denied) string {
	switch d.Reason {
	case "no_price":
		if d.Model == "" {
			return "A spend limit applies, the call names no model, and the policy has no price for that."
		}
		return "A spend limit applies, and the policy has no price for model " + Quote(d.Model) + "."
	case "table_full":
		return "There is no room for a new key; try again later."
	}
	l := d.Limit
	if l == nil {
		return "The call was denied."
	}
	title := titleOf(l.Dimension)
	switch d.Reason {
	case "owner_unreachable":
		return title + " limit cannot be checked: the node that keeps it is unreachable."
	case "exceeds_capacity":
		return title + " limit exceeded. This call needs " + amount(l, l.Cost) + ", and " + ceiling(l) + "."
	}
	return title + " limit exceeded. " + used(l) + "."
}

// titles begin a sentence; nouns follow a number.
var (
	titles = map[string]string{
		"requests":      "Request",
		"tokens":        "Token",
		"input_tokens":  "Input token",
		"output_tokens": "Output token",
		spend:           "Spend",
		"concurrent":    "Concurrency",
	}
	nouns = map[string]string{
		"requests":      " requests",
		"tokens":        " tokens",
		"input_tokens":  " input tokens",
		"output_tokens": " output tokens",
		spend:           "",
		"concurrent":    " concurrent calls",
	}
)

func titleOf(dimension string) string {
	if t, ok := titles[dimension]; ok {
		return t
	}
	first, size := utf8.DecodeRuneInString(dimension) // an operator's own
	return strings.ToUpper(string(first)) + dimension[size:]
}

func nounOf(dimension string) string {
	if n, ok := nouns[dimension]; ok {
		return n
	}
	return " " + dimension
}

// used is "95,000 of 100,000 tokens used this minute".
func used(l *Limit) string {
	taken := plain(l, l.Capacity-l.Remaining+l.Debt) + " of "
	switch {
	case l.Algorithm == "concurrency":
		return taken + plain(l, l.Capacity) + nounOf(l.Dimension) + " running"
	case l.Capacity != l.Limit:
		return taken + "a burst of " + amount(l, l.Capacity) + " used; the rate is " + plain(l, l.Limit) + " " + per(l.Window)
	}
	return taken + amount(l, l.Capacity) + " used " + period(l)
}

// ceiling is "the limit never grants more than 100,000 tokens at once".
func ceiling(l *Limit) string {
	if l.Capacity == 0 {
		return "the limit is 0"
	}
	return "the limit never grants more than " + amount(l, l.Capacity) + " at once"
}

// amount is a number of the limit's dimension with its noun: 10 requests, $1.00.
func amount(l *Limit, n int64) string {
	noun := nounOf(l.Dimension)
	if _, builtin := nouns[l.Dimension]; n == 1 && builtin {
		noun = strings.TrimSuffix(noun, "s")
	}
	return plain(l, n) + noun
}

// plain is the number alone.
func plain(l *Limit, n int64) string {
	if l.Dimension == spend {
		return dollars(n)
	}
	return grouped(n)
}

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// units are the windows that have a name. Days and months are not all equally
// long.
var units = []struct {
	least, most      time.Duration
	name, this, last string
}{
	{time.Second, time.Second, "second", "this second", "in the last second"},
	{time.Minute, time.Minute, "minute", "this minute", "in the last minute"},
	{time.Hour, time.Hour, "hour", "this hour", "in the last hour"},
	{day - 2*time.Hour, day + 2*time.Hour, "day", "today", "in the last day"},
	{week - 2*time.Hour, week + 2*time.Hour, "week", "this week", "in the last week"},
	{28*day - 2*time.Hour, 31*day + 2*time.Hour, "month", "this month", ""},
}

// period says when: this minute, today, in the last 90s.
func period(l *Limit) string {
	window := l.Window
	sliding := l.Algorithm == "sliding_window"
	for _, u := range units {
		switch {
		case window < u.least || window > u.most:
		case !sliding:
			return u.this
		case u.last != "":
			return u.last
		}
	}
	if l.Algorithm == "fixed_window" {
		return "in this window of " + short(window)
	}
	return "in the last " + short(window)
}

// per is "per minute" or "per 1m30s".
func per(window time.Duration) string {
	for _, u := range units {
		if window == u.least && u.least == u.most {
			return "per " + u.name
		}
	}
	return "per " + short(window)
}

// short is a duration without its zeros: 15m, not 15m0s.
func short(d time.Duration) string {
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + " days"
	}
	s := d.String()
	for _, zero := range [...]string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-len("0s")]
		}
	}
	return s
}

// grouped is 1,234,567.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// dollars is millionths of a dollar with at least the cents: $1,000.00, $0.000125.
func dollars(micros int64) string {
	const million = 1_000_000
	fraction := strconv.FormatInt(million+micros%million, 10)[1:]
	for len(fraction) > 2 && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	return "$" + grouped(micros/million) + "." + fraction
}

// maxShown is how many bytes of a caller's text a sentence repeats.
const maxShown = 64

// Quote shows a caller's text: escaped, so that it garbles no log and no header, and
// cut when it is long.
func Quote(s string) string {
	if len(s) <= maxShown {
		return strconv.Quote(s)
	}
	end := maxShown
	for end > maxShown-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return strconv.Quote(s[:end]) + "... (" + strconv.Itoa(len(s)) + " bytes)"
}
