// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"fmt"
	"time"

	"github.com/tidwall/redcon"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

// maxPeriod is the longest period of CL.THROTTLE, in seconds: 31 years.
const maxPeriod = 1_000_000_000

// throttle is CL.THROTTLE key max_burst count_per_period period [quantity], as redis-cell has
// it. A bucket has max_burst + 1 tokens.
func throttle(r *requests, args []string) (call.Call, *problem) {
	q := r.counts.take()
	q.Reset()
	t := &q.bucket
	t.Reset()
	q.Key, q.Hits, q.Throttle = args[0], 1, t
	for _, number := range [...]struct {
		name   string
		at     int
		least  int64
		most   int64
		target *int64
	}{
		{"max_burst", 1, 0, amount.Max - 1, &t.Capacity},
		{"count_per_period", 2, 1, amount.Max, &t.Count},
		{"period", 3, 1, maxPeriod, &t.PeriodNanos},
		{"quantity", 4, 0, amount.Max, &q.Hits},
	} {
		if number.at >= len(args) {
			break
		}
		if p := whole(number.name, args[number.at], number.target); p != nil {
			return call.Call{}, p
		}
		if n := *number.target; n < number.least || n > number.most {
			return call.Call{}, invalid(number.name, fmt.Sprintf("must be between %d and %d, got %d", number.least, number.most, n))
		}
	}
	t.Capacity++
	t.PeriodNanos *= int64(time.Second)
	return call.Of(&q.CountRequest), nil
}

// appendThrottle appends the five integers: whether the call is limited, the limit, what
// remains, and the seconds, rounded up, until the call may be tried again (-1 if it is not
// limited, or never fits) and until the bucket is full.
func appendThrottle(b []byte, limit int64, d *pb.Counted) []byte {
	limited, retry := int64(0), int64(-1)
	if d.GetLimited() {
		limited = 1
		if d.GetRetryAfterNanos() >= 0 {
			retry = explain.CeilSeconds(time.Duration(d.GetRetryAfterNanos()))
		}
	}
	b = redcon.AppendArray(b, 5)
	for _, n := range [...]int64{limited, limit, d.GetRemaining(), retry, explain.CeilSeconds(time.Duration(d.GetResetNanos()))} {
		b = redcon.AppendInt(b, n)
	}
	return b
}
