// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"math/big"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// TestViolationsFindOneTooMany checks, for each promise, a log that just keeps it and the
// same log with one unit more.
func TestViolationsFindOneTooMany(t *testing.T) {
	midnight := time.Date(2026, 3, 8, 5, 0, 0, 0, time.UTC).UnixNano() // in New York, on a day of 23 hours
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		limit   limiter.Limit
		gap     time.Duration // between two charges
		amounts [2]int64      // the most that is allowed
	}{
		{"bucket", limiter.Limit{Algorithm: limiter.TokenBucket, Amount: 60, Burst: 10, Window: time.Minute}, 5 * time.Second, [2]int64{10, 5}},
		{"within a sliding window", limiter.Limit{Algorithm: limiter.SlidingWindow, Amount: 10, Window: time.Minute}, time.Minute - 1, [2]int64{7, 3}},
		{"a sliding window later", limiter.Limit{Algorithm: limiter.SlidingWindow, Amount: 10, Window: time.Minute}, time.Minute, [2]int64{10, 10}},
		{"within a day", limiter.Limit{Algorithm: limiter.FixedWindow, Amount: 10, Calendar: limiter.Day, Zone: newYork}, 23*time.Hour - 1, [2]int64{4, 6}},
		{"on the next day", limiter.Limit{Algorithm: limiter.FixedWindow, Amount: 10, Calendar: limiter.Day, Zone: newYork}, 23 * time.Hour, [2]int64{10, 10}},
	} {
		for more := range int64(2) {
			o := New()
			a := &account{limit: c.limit}
			o.accounts[accountID{name: c.name}] = a
			now := limiter.Time{Mono: 1, Wall: midnight}
			a.add(now, big.NewInt(c.amounts[0]))
			a.add(now.Add(c.gap), big.NewInt(c.amounts[1]+more))
			if broken := o.Violations(); (len(broken) > 0) != (more > 0) {
				t.Errorf("%s, %d too many: Violations() = %q", c.name, more, broken)
			}
		}
	}
}
