// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"
	"time"
)

func TestTighter(t *testing.T) {
	limit := func(remaining, capacity, debt int64) *Limit {
		return &Limit{Remaining: remaining, Capacity: capacity, Debt: debt}
	}
	for _, tt := range []struct {
		a, b *Limit
		want bool
	}{
		{limit(1, 10, 0), limit(2, 10, 0), true},
		{limit(2, 10, 0), limit(1, 10, 0), false},
		{limit(9, 100, 0), limit(1, 10, 0), true},  // the smaller share, though more is left
		{limit(1, 10, 0), limit(10, 100, 0), true}, // the same share: the smaller number
		{limit(1, 10, 0), limit(1, 10, 0), false},
		{limit(1<<53-1, 1<<53, 0), limit(1<<53, 1<<53, 0), true}, // no rounding
		{limit(0, 10, 2), limit(0, 10, 1), true},                 // nothing left: the larger debt
		{limit(0, 10, 1), limit(0, 10, 2), false},
		{limit(0, 10, 1), limit(0, 10, 0), true},
		{limit(0, 0, 0), limit(1, 10, 0), true},
	} {
		if got := Tighter(tt.a, tt.b); got != tt.want {
			t.Errorf("Tighter(%v, %v) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

// TestTightest: a header is about the limit that will be hit first.
func TestTightest(t *testing.T) {
	limits := []Limit{
		{Name: "org", Dimension: "tokens", Capacity: 1 << 53, Remaining: 1 << 52},
		{Name: "user", Dimension: "tokens", Capacity: 1000, Remaining: 499},
		{Name: "watch", Dimension: "tokens", Capacity: 1000, Remaining: 0, Shadow: true},
		{Name: "rpm", Dimension: "requests", Capacity: 10, Remaining: 1},
	}
	for dimension, want := range map[string]string{Tokens: "user", Requests: "rpm"} {
		if got := Tightest(limits, dimension); got == nil || got.Name != want {
			t.Errorf("Tightest(%s) = %v, want %s", dimension, got, want)
		}
	}
	if got := Tightest(limits, Tokens, Requests); got == nil || got.Name != "rpm" {
		t.Errorf("Tightest(tokens, requests) = %v, want rpm", got)
	}
	if got := Tightest(limits, Spend); got != nil {
		t.Errorf("Tightest(spend) = %v, want none", got)
	}
}

// TestRounding: a caller is never told to come back too early.
func TestRounding(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0"},
		{1, "0.001"},
		{time.Millisecond, "0.001"},
		{time.Millisecond + 1, "0.002"},
		{100 * time.Millisecond, "0.1"},
		{1500 * time.Millisecond, "1.5"},
		{2 * time.Second, "2"},
		{10*time.Second - 1, "10"},
		{86400*time.Second + 10*time.Millisecond, "86400.01"},
	} {
		if got := string(Seconds(tt.d)); got != tt.want {
			t.Errorf("Seconds(%v) = %s, want %s", tt.d, got, tt.want)
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		plus time.Duration
		want string
	}{
		{0, "2026-01-02T03:04:05Z"}, {1, "2026-01-02T03:04:05.001Z"}, {250 * time.Millisecond, "2026-01-02T03:04:05.25Z"}, {time.Second - 1, "2026-01-02T03:04:06Z"},
	} {
		if got := FormatTime(at.Add(tt.plus)); got != tt.want {
			t.Errorf("FormatTime(+%v) = %s, want %s", tt.plus, got, tt.want)
		}
	}
	if got := FormatTime(time.Time{}); got != "" {
		t.Errorf("FormatTime(0) = %q, want nothing", got)
	}
}
