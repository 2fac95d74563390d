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

// Message tells the person who made a call, in a sentence, which limit denied it and why.
// A hidden limit is named without its numbers.
func Message(d *Decision) string {
	switch d.Reason {
	case noPrice:
		if d.Model == "" {
			return "A spend limit applies, the call names no model, and the policy has no price for that."
		}
		return "A spend limit applies, and the policy has no price for model " + text.Quote(d.Model) + "."
	case tableFull:
		return "There is no room for a new key; try again later."
	case idsFull:
		return "Live reservations fill the share of request ids of " + rootOf(d) + "; settle or cancel them, or try again later."
	}
	l := d.Binding
	if l == nil {
		return "The call was denied."
	}
	limit := titleOf(l.Dimension) + " limit"
	if l.Name != l.Dimension && l.Name != "" {
		limit += " " + plain(l.Name)
	}
	if l.PerModel && d.Model != "" {
		limit += " of " + plain(d.Model)
	}
	switch {
	case d.Reason == ownerUnreachable:
		return limit + " cannot be checked: the node that keeps it" + suffix(" for ", l.Scope) + " is unreachable."
	case d.Reason == exceedsCapacity && l.Hidden:
		return limit + suffix(" of ", l.Scope) + " exceeded: this call needs more than the limit ever grants at once."
	case d.Reason == exceedsCapacity:
		return limit + " exceeded: this call needs " + quantity(l, l.Cost) + ", and " + maximum(l) + "."
	case l.Hidden:
		return limit + suffix(" of ", l.Scope) + " exceeded."
	}
	return limit + " exceeded: " + usage(l) + "."
}

// plain is s if it is a name as policies and models have them, and quoted if not: a
// model is what the caller sent.
func plain(s string) string {
	const maxPlain = 64
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || i == maxPlain {
			return text.Quote(s)
		}
	}
	return s
}

// suffix is s after a word, or nothing if s is empty.
func suffix(word, s string) string {
	if s == "" {
		return ""
	}
	return word + s
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

// usage is "95,000 of 100,000 tokens used this minute by acme/alice".
func usage(l *Limit) string {
	taken := number(l, l.Capacity-l.Remaining+l.Debt) + " of "
	by := suffix(" by ", l.Scope)
	switch {
	case l.Algorithm == "concurrency":
		return taken + number(l, l.Capacity) + nounOf(l.Dimension) + suffix(" of ", l.Scope) + " running"
	case l.Capacity != l.Limit:
		return taken + "a burst of " + quantity(l, l.Capacity) + " used" + by + "; the rate is " + number(l, l.Limit) + " " + per(l.Window)
	}
	return taken + quantity(l, l.Capacity) + " used " + period(l) + by
}

// maximum is "the limit of acme/alice never grants more than 100,000 tokens at once".
func maximum(l *Limit) string {
	limit := "the limit" + suffix(" of ", l.Scope)
	if l.Capacity == 0 {
		return limit + " is 0"
	}
	return limit + " never grants more than " + quantity(l, l.Capacity) + " at once"
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
