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
func Message(d *Decision) string { return denial(d) + shared(d) + waiting(d) }

// shared says that the numbers of the message are those of a share. Otherwise it is empty.
func shared(d *Decision) string {
	l := d.Binding
	if !d.Fallback || l == nil || l.Hidden || l.Capacity == 0 || d.Reason != limitExceeded && d.Reason != exceedsCapacity {
		return ""
	}
	return " The node that keeps the limit is unreachable, and this is the share of one other node."
}

// denial is the part of the message that is not about waiting.
func denial(d *Decision) string {
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
		return limit + " exceeded: this call needs " + quantity(l, l.Cost) + ", and " + maximum(l, d.Priority) + "."
	case l.Hidden:
		return limit + suffix(" of ", l.Scope) + " exceeded."
	}
	return limit + " exceeded: " + usage(l, d.Priority) + "."
}

// waiting says why a call that might have waited was denied: that it waited in vain, or why
// it was denied at once. Otherwise it is empty.
func waiting(d *Decision) string {
	const notAllowed = " The call may not wait: "
	switch d.WaitRefused {
	case "limit_full":
		return notAllowed + "as many calls wait at this limit as may."
	case "key_full":
		return notAllowed + "as many calls of this key wait as may."
	case "line_full":
		return notAllowed + "as many calls of " + rootOf(d) + " wait as may."
	case "too_late":
		return tooLate(d)
	}
	if d.Waited > 0 {
		return " The call has waited for " + forPeople(d.Waited) + "."
	}
	return ""
}

// tooLate is the message about a call that would not fit before its time is over.
func tooLate(d *Decision) string {
	need := " The call may not wait: it would not fit in time"
	if d.RetryAfter > 0 {
		need = " The call would have to wait for " + forPeople(d.RetryAfter)
	}
	switch {
	case d.MaxWait > 0 && d.MaxWait < d.RetryAfter:
		return need + ", and may wait for " + forPeople(d.MaxWait) + "."
	case d.RetryAfter > 0:
		return need + ", which is longer than it may."
	}
	return need + "."
}

// forPeople formats a time that someone waits: 12.3s, rounded up to a tenth of a second, or
// to a millisecond below one second.
func forPeople(d time.Duration) string {
	unit := 100 * time.Millisecond
	if d < time.Second {
		unit = time.Millisecond
	}
	return short(Ceil(d, unit))
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
//
// With headroom it is about the part that calls of the class may use: "60,000 of the 60,000
// tokens for class batch used this minute by acme; 40,000 of 100,000 are kept for more urgent
// classes". How much of the headroom is used is not known then, unless all of it is, and more.
func usage(l *Limit, class string) string {
	headroom := l.Headroom
	if l.Debt > 0 {
		headroom = 0
	}
	share := l.Capacity - headroom
	taken := number(l, share-l.Remaining+l.Debt) + " of "
	forClass, kept := "", ""
	if headroom > 0 {
		taken += "the "
		forClass = " for " + classOf(class)
		kept = "; " + number(l, headroom) + " of " + number(l, l.Capacity) + " are kept for more urgent classes"
	}
	by := suffix(" by ", l.Scope)
	switch {
	case l.Algorithm == "concurrency":
		return taken + number(l, share) + nounOf(l.Dimension) + forClass + suffix(" of ", l.Scope) + " running" + kept
	case l.Capacity != l.Limit:
		burst := "a burst of "
		if headroom > 0 {
			burst = "burst of "
		}
		return taken + burst + quantity(l, share) + forClass + " used" + by + kept + "; the rate is " + number(l, l.Limit) + " " + per(l.Window)
	}
	return taken + quantity(l, share) + forClass + " used " + period(l) + by + kept
}

// classOf names a class in a sentence.
func classOf(class string) string {
	if class == "" {
		return "this class"
	}
	return "class " + class
}

// maximum is "the limit of acme/alice never grants more than 100,000 tokens at once".
func maximum(l *Limit, class string) string {
	limit := "the limit" + suffix(" of ", l.Scope)
	if l.Capacity == 0 {
		return limit + " is 0"
	}
	most := limit + " never grants more than " + quantity(l, l.Capacity-l.Headroom) + " at once"
	if l.Headroom > 0 {
		return most + " to " + classOf(class)
	}
	return most
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
