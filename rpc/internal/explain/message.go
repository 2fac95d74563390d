// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/text"
)

// Message tells the person who made a call, in a sentence or two, why it was denied.
func Message(d *Decision) string {
	switch d.Reason {
	case "no_price":
		if d.Model == "" {
			return "A spend limit applies, the call names no model, and the policy has no price for that."
		}
		return "A spend limit applies, and the policy has no price for model " + text.Quote(d.Model) + "."
	case "table_full":
		return "There is no room for a new key; try again later."
	case "ids_full":
		return "Live reservations fill the share of request ids of " + rootOf(d) + "; settle or cancel them, or try again later."
	}
	l := d.Binding
	if l == nil {
		return "The call was denied."
	}
	title := titleOf(l.Dimension)
	switch d.Reason {
	case "owner_unreachable":
		return title + " limit cannot be checked: the node that keeps it is unreachable."
	case "exceeds_capacity":
		return title + " limit exceeded. This call needs " + quantity(l, l.Cost) + ", and " + maximum(l) + "."
	}
	return title + " limit exceeded. " + usage(l) + "."
}

// rootOf names the root of the call's key, which is the first segment of every scope.
func rootOf(d *Decision) string {
	if len(d.Limits) == 0 {
		return "this key's root"
	}
	return text.Quote(keypath.Root(d.Limits[0].Scope))
}

// titles begin a sentence about a dimension, nouns follow a number of it.
var (
	titles = map[string]string{
		Requests:     "Request",
		Tokens:       "Token",
		InputTokens:  "Input token",
		OutputTokens: "Output token",
		Spend:        "Spend",
		Concurrent:   "Concurrency",
	}
	nouns = map[string]string{
		Requests:     " requests",
		Tokens:       " tokens",
		InputTokens:  " input tokens",
		OutputTokens: " output tokens",
		Spend:        "",
		Concurrent:   " concurrent calls",
	}
)

func titleOf(dimension string) string {
	if t, ok := titles[dimension]; ok {
		return t
	}
	first, size := utf8.DecodeRuneInString(dimension) // the operator's own
	return strings.ToUpper(string(first)) + dimension[size:]
}

func nounOf(dimension string) string {
	if n, ok := nouns[dimension]; ok {
		return n
	}
	return " " + dimension
}

// usage is "95,000 of 100,000 tokens used this minute".
func usage(l *Limit) string {
	taken := number(l, l.Capacity-l.Remaining+l.Debt) + " of "
	switch {
	case l.Algorithm == "concurrency":
		return taken + number(l, l.Capacity) + nounOf(l.Dimension) + " running"
	case l.Capacity != l.Limit:
		return taken + "a burst of " + quantity(l, l.Capacity) + " used; the rate is " + number(l, l.Limit) + " " + per(l.Window)
	}
	return taken + quantity(l, l.Capacity) + " used " + period(l)
}

// maximum is "the limit never grants more than 100,000 tokens at once".
func maximum(l *Limit) string {
	if l.Capacity == 0 {
		return "the limit is 0"
	}
	return "the limit never grants more than " + quantity(l, l.Capacity) + " at once"
}

// quantity is n with the noun of the limit's dimension: 10 requests, $1.00.
func quantity(l *Limit, n int64) string {
	noun := nounOf(l.Dimension)
	if _, builtin := nouns[l.Dimension]; n == 1 && builtin {
		noun = strings.TrimSuffix(noun, "s")
	}
	return number(l, n) + noun
}

// number is n without a noun, in dollars if the dimension is spend.
func number(l *Limit, n int64) string {
	if l.Dimension == Spend {
		return dollars(n)
	}
	return amount.Group(n)
}

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// units are the windows that have a name. Days, weeks and months differ in length.
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

// period names the window of a limit: this minute, today, in the last 90s.
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

// short formats a duration without trailing zero units: 15m, not 15m0s.
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

// dollars formats millionths of a dollar, with cents at least: $1,000.00, $0.000125.
func dollars(micros int64) string {
	const million = 1_000_000
	fraction := strconv.FormatInt(million+micros%million, 10)[1:]
	for len(fraction) > 2 && fraction[len(fraction)-1] == '0' {
		fraction = fraction[:len(fraction)-1]
	}
	return "$" + amount.Group(micros/million) + "." + fraction
}
