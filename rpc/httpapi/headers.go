// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/message"
	"github.com/bucketring/bucketring/rpc/pb"
)

// openAI names the headers that AI clients read, by the dimension they tell of.
var openAI = []struct{ dimension, limit, remaining, reset string }{
	{string(limiter.Requests), "X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
	{string(limiter.Tokens), "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"},
}

// setHeaders tells of the binding limit and, as OpenAI does, of the tightest
// limit on requests and on tokens. Header names are in Go's canonical form,
// which is as good as any other.
func (a *api) setHeaders(h http.Header, d *pb.Decision) {
	now := a.now()
	set := func(name, value string) { h[name] = []string{value} }
	number := func(name string, n int64) { set(name, strconv.FormatInt(n, 10)) }

	if l := binding(d); l != nil {
		number("X-Ratelimit-Limit", l.GetLimit())
		number("X-Ratelimit-Remaining", l.GetRemaining())
		number("X-Ratelimit-Reset", resetSeconds(l, d, now))
	}
	for _, name := range openAI {
		if l := tightest(d.GetLimits(), name.dimension); l != nil {
			number(name.limit, l.GetLimit())
			number(name.remaining, l.GetRemaining())
			set(name.reset, untilReset(l, now).String())
		}
	}
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED && d.RetryAfter != nil {
		number("Retry-After", max(1, seconds(d.RetryAfter.AsDuration())))
	}
}

// resetSeconds is when l is as new, in Unix seconds rounded up. A slot has no
// such time: then it is when the call may be tried again.
func resetSeconds(l *pb.LimitState, d *pb.Decision, now time.Time) int64 {
	at := now.Add(d.GetRetryAfter().AsDuration())
	if l.ResetAt != nil {
		at = l.ResetAt.AsTime()
	}
	s := at.Unix()
	if at.Nanosecond() > 0 {
		s++
	}
	return s
}

// untilReset is the time from now until l is as new, rounded up to the
// millisecond.
func untilReset(l *pb.LimitState, now time.Time) time.Duration {
	if l.ResetAt == nil {
		return 0
	}
	return time.Duration(milliseconds(max(0, l.ResetAt.AsTime().Sub(now)))) * time.Millisecond
}

// tightest returns the enforced limit of a dimension that has the smallest
// share left, or nil.
func tightest(limits []*pb.LimitState, dimension string) *pb.LimitState {
	var found *pb.LimitState
	for _, l := range limits {
		if l.GetDimension() == dimension && !l.GetShadow() && (found == nil || tighter(l, found)) {
			found = l
		}
	}
	return found
}

func tighter(a, b *pb.LimitState) bool {
	return message.Tighter(message.Share{Remaining: a.GetRemaining(), Capacity: a.GetCapacity()}, message.Share{Remaining: b.GetRemaining(), Capacity: b.GetCapacity()})
}
