// SPDX-License-Identifier: Apache-2.0

package slice_test

import (
	"flag"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/limiter/slice"
)

// TestMain keeps rapid from writing a file for every failure. The printed seed is enough.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("rapid.nofailfile", "true")
	os.Exit(m.Run())
}

// Indexes of dimensions in amounts.
const (
	requests = iota
	input
)

func TestHolder(t *testing.T) {
	h := &slice.Holder{}
	one := &slice.Amounts{requests: 1}
	if h.Take(0, one) {
		t.Error("Take() without a slice = true, want false")
	}
	if !h.Ask(100) || h.Ask(101) {
		t.Error("Ask() = false, or true again before an answer, want one request")
	}
	h.Granted(150, slice.Grant{ID: "a", Amounts: slice.Amounts{requests: 4}, Lease: 1000})
	if h.Take(200, &slice.Amounts{requests: 5}) || h.Take(200, &slice.Amounts{input: 1}) {
		t.Error("Take() of more than the slice has = true, want false")
	}
	if !h.Take(200, one) || h.Ask(200) {
		t.Error("a slice of which a quarter is spent answers nothing or is renewed, want neither")
	}
	if !h.Take(200, one) || !h.Ask(210) {
		t.Error("a slice of which half is spent is not renewed")
	}
	if !h.Take(220, one) {
		t.Error("Take() while a slice is renewed = false, want true")
	}
	h.Granted(230, slice.Grant{ID: "b", Amounts: slice.Amounts{requests: 4}, Lease: 1000})
	want := []slice.Return{{ID: "a", Spent: slice.Amounts{requests: 3}, Calls: 3}}
	if diff := cmp.Diff(want, h.Due(230)); diff != "" {
		t.Errorf("Due() (-want +got):\n%s", diff)
	}
	if !h.Take(1209, one) || h.Take(1210, one) {
		t.Error("a slice is over before its deadline, or after it, which counts from Ask")
	}
	want = append(want, slice.Return{ID: "b", Spent: slice.Amounts{requests: 1}, Calls: 1})
	if diff := cmp.Diff(want, h.Due(1210)); diff != "" {
		t.Errorf("Due() (-want +got):\n%s", diff)
	}
	h.Returned("a")
	h.Returned("a")
	if diff := cmp.Diff(want[1:], h.Due(1210)); diff != "" {
		t.Errorf("Due() after an acknowledgement (-want +got):\n%s", diff)
	}
	// A slice that comes after its deadline or after a recall is returned unspent.
	h.Ask(2000)
	h.Granted(3000, slice.Grant{ID: "c", Amounts: slice.Amounts{requests: 4}, Lease: 1000})
	h.Ask(3000)
	h.Recall()
	h.Granted(3001, slice.Grant{ID: "d", Amounts: slice.Amounts{requests: 4}, Lease: 1000})
	if h.Take(3001, one) {
		t.Error("Take() of a slice that is over = true, want false")
	}
	want = append(want[1:], slice.Return{ID: "c"}, slice.Return{ID: "d"})
	if diff := cmp.Diff(want, h.Due(3001)); diff != "" {
		t.Errorf("Due() (-want +got):\n%s", diff)
	}
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
		{time.Second, 0, time.Second, 1020 * time.Millisecond},
		{time.Second, time.Hour, time.Second, 1020 * time.Millisecond},
		{time.Second, 102 * time.Millisecond, 100 * time.Millisecond, 102 * time.Millisecond},
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
}

// BenchmarkTake is what a call costs that a holder decides.
func BenchmarkTake(b *testing.B) {
	h := &slice.Holder{}
	h.Ask(0)
	h.Granted(0, slice.Grant{ID: strings.Repeat("x", 32), Amounts: slice.Amounts{1 << 53, 1 << 53}, Lease: 1 << 62})
	cost := &slice.Amounts{1, 900}
	b.ReportAllocs()
	for b.Loop() {
		if !h.Take(1, cost) {
			b.Fatal("the slice is over")
		}
	}
}
