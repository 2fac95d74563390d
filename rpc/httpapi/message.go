// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// denialMessage says in a sentence or two why a call of model was denied, to
// the person who made it.
func denialMessage(d *pb.Decision, model string) string {
	switch d.GetReason() {
	case pb.Reason_REASON_NO_PRICE:
		if model == "" {
			return "A spend limit applies, the call names no model, and the policy has no price for that."
		}
		return "A spend limit applies, and the policy has no price for model " + server.Quote(model) + "."
	case pb.Reason_REASON_TABLE_FULL:
		return "There is no room for a new key; try again later."
	}
	l := binding(d)
	if l == nil {
		return "The call was denied."
	}
	title := titleOf(l.Dimension)
	switch d.GetReason() {
	case pb.Reason_REASON_OWNER_UNREACHABLE:
		return title + " limit cannot be checked: the node that keeps it is unreachable."
	case pb.Reason_REASON_EXCEEDS_CAPACITY:
		return title + " limit exceeded. This call needs " + amount(l, l.Cost) + ", and " + ceiling(l) + "."
	}
	return title + " limit exceeded. " + used(l) + "."
}

// titles begin a sentence; nouns follow a number.
var (
	titles = map[limiter.Dimension]string{
		limiter.Requests:     "Request",
		limiter.Tokens:       "Token",
		limiter.InputTokens:  "Input token",
		limiter.OutputTokens: "Output token",
		limiter.Spend:        "Spend",
		limiter.Concurrent:   "Concurrency",
	}
	nouns = map[limiter.Dimension]string{
		limiter.Requests:     " requests",
		limiter.Tokens:       " tokens",
		limiter.InputTokens:  " input tokens",
		limiter.OutputTokens: " output tokens",
		limiter.Spend:        "",
		limiter.Concurrent:   " concurrent calls",
	}
)

func titleOf(dimension string) string {
	if t, ok := titles[limiter.Dimension(dimension)]; ok {
		return t
	}
	return strings.ToUpper(dimension[:1]) + dimension[1:] // an operator's own
}

func nounOf(dimension string) string {
	if n, ok := nouns[limiter.Dimension(dimension)]; ok {
		return n
	}
	return " " + dimension
}

// used is "95,000 of 100,000 tokens used this minute".
func used(l *pb.LimitState) string {
	taken := plain(l, l.Capacity-l.Remaining+l.Debt) + " of "
	switch {
	case l.Algorithm == limiter.Concurrency.String():
		return taken + plain(l, l.Capacity) + nounOf(l.Dimension) + " running"
	case l.Capacity != l.Limit:
		return taken + "a burst of " + amount(l, l.Capacity) + " used; the rate is " + plain(l, l.Limit) + " " + per(l.Window.AsDuration())
	}
	return taken + amount(l, l.Capacity) + " used " + period(l)
}

// ceiling is "the limit never grants more than 100,000 tokens at once".
func ceiling(l *pb.LimitState) string {
	if l.Capacity == 0 {
		return "the limit is 0"
	}
	return "the limit never grants more than " + amount(l, l.Capacity) + " at once"
}

// amount is a number of the limit's dimension with its noun: 10 requests, $1.00.
func amount(l *pb.LimitState, n int64) string {
	noun := nounOf(l.Dimension)
	if _, builtin := nouns[limiter.Dimension(l.Dimension)]; n == 1 && builtin {
		noun = strings.TrimSuffix(noun, "s")
	}
	return plain(l, n) + noun
}

// plain is the number alone.
func plain(l *pb.LimitState, n int64) string {
	if l.Dimension == string(limiter.Spend) {
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
func period(l *pb.LimitState) string {
	window := l.GetWindow().AsDuration()
	sliding := l.Algorithm == limiter.SlidingWindow.String()
	for _, u := range units {
		switch {
		case window < u.least || window > u.most:
		case !sliding:
			return u.this
		case u.last != "":
			return u.last
		}
	}
	if l.Algorithm == limiter.FixedWindow.String() {
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
	return policy.FormatDuration(d)
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
