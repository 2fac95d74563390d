// SPDX-License-Identifier: Apache-2.0

package slice_test

import (
	"flag"
	"math"
	"os"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter/slice"
)

// TestMain keeps rapid from writing a file for every failure. The printed seed is enough.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("rapid.nofailfile", "true")
	os.Exit(m.Run())
}

func TestTerms(t *testing.T) {
	for _, c := range []struct {
		amount        int64
		window, lease time.Duration
		want          int64
	}{
		{1000, 10 * time.Second, time.Second, 100},
		{1, time.Hour, time.Second, 1},
		{0, time.Hour, time.Second, 0},
		{1 << 53, time.Nanosecond, 24 * time.Hour, math.MaxInt64},
	} {
		if got := slice.Margin(c.amount, c.window, c.lease); got != c.want {
			t.Errorf("Margin(%d, %v, %v) = %d, want %d", c.amount, c.window, c.lease, got, c.want)
		}
	}
	for _, c := range []struct {
		capacity, amount int64
		window, want     time.Duration
	}{
		{1000, 1000, 10 * time.Second, time.Second},
		{1009, 3000, time.Second, 33333333},
		{9, 1, time.Hour, 0},
		{1 << 53, 1, 24 * time.Hour, math.MaxInt64},
		{1000, 0, time.Hour, math.MaxInt64},
	} {
		got := slice.RefillTime(c.capacity, c.amount, c.window)
		if got != c.want {
			t.Errorf("RefillTime(%d, %d, %v) = %d, want %d", c.capacity, c.amount, c.window, got, c.want)
		}
		if m := slice.Margin(c.amount, c.window, got); m > c.capacity/10 {
			t.Errorf("the margin of %d per %v for %v is %d, more than a tenth of %d", c.amount, c.window, got, m, c.capacity)
		}
	}
	for _, c := range []struct{ ttl, left, holder, owner time.Duration }{
		{time.Second, 0, time.Second, 3020 * time.Millisecond},
		{time.Second, time.Hour, time.Second, 3020 * time.Millisecond},
		{time.Second, 136 * time.Millisecond, 100 * time.Millisecond, 136 * time.Millisecond},
	} {
		if holder, owner := slice.Lease(c.ttl, c.left); holder != c.holder || owner != c.owner {
			t.Errorf("Lease(%v, %v) = %v, %v, want %v, %v", c.ttl, c.left, holder, owner, c.holder, c.owner)
		}
	}
	for _, c := range []struct {
		left, capacity, share, typical int64
		holders                        int
		want                           int64
	}{
		{1000, 1000, 500, 1, 1, 250},
		{1000, 1000, 1000, 1, 1, 500},
		{1000, 1000, 1000, 1, 5, 100},
		{199, 1000, 1000, 1, 1, 0},
		{1000, 1000, 100, 13, 1, 0},
		{1000, 1000, 100, 12, 1, 50},
	} {
		if got := slice.Size(c.left, c.capacity, c.share, c.typical, c.holders); got != c.want {
			t.Errorf("Size(%v) = %d, want %d", c, got, c.want)
		}
	}
	for _, c := range []struct {
		rate  int64
		lease time.Duration
		want  int64
	}{
		{1000, time.Second, 1000},
		{1000, 250 * time.Millisecond, 250},
		{6, 500 * time.Millisecond, 0},
		{8, 500 * time.Millisecond, 4},
		{1 << 62, 24 * time.Hour, math.MaxInt64},
	} {
		if got := slice.Needed(c.rate, c.lease); got != c.want {
			t.Errorf("Needed(%d, %v) = %d, want %d", c.rate, c.lease, got, c.want)
		}
	}
}
