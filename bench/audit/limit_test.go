// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/bucketring/bucketring/internal/amount"
)

func TestLevel(t *testing.T) {
	for _, c := range []struct{ pattern, key, want string }{
		{"", "acme/alice", "acme/alice"},
		{"acme", "acme", "acme"},
		{"acme", "acme/alice", "acme"},
		{"*", "acme/alice/x", "acme"},
		{"acme/*", "acme/alice/x", "acme/alice"},
		{"acme/*", "acme/alice", "acme/alice"},
		{"acme/*", "acme", ""},
		{"acme/*", "zoo/alice", ""},
		{"a*e/*-gpu", "acme/my-gpu", "acme/my-gpu"},
		{"a*e/*-gpu", "acme/my-cpu", ""},
		{"*/x", "a/b/x", ""},
		{"a/b/c/d", "a/b/c/d", "a/b/c/d"},
	} {
		got, ok := level(c.pattern, c.key)
		if !ok {
			got = ""
		}
		if got != c.want {
			t.Errorf("level(%q, %q) = %q, want %q", c.pattern, c.key, got, c.want)
		}
	}
}

func TestLimitsOfACall(t *testing.T) {
	o := Options{Limits: []Limit{
		{Scope: "*", Dimension: Requests},
		{Dimension: Tokens, Tier: "free"},
		{Dimension: Spend, Model: "*-preview*"},
	}}
	names := func(key, tier, model string) string {
		var list []string
		for _, l := range o.limitsOf(key, tier, model) {
			list = append(list, l.Scope+":"+l.Dimension)
		}
		return strings.Join(list, " ")
	}
	for _, c := range []struct{ key, tier, model, want string }{
		{"a/b", "free", "m", "a:requests a/b:tokens"},
		{"a/b", "", "org/x-preview-2", "a:requests a/b:spend"},
		{"a", "gold", "", "a:requests"},
	} {
		if got := names(c.key, c.tier, c.model); got != c.want {
			t.Errorf("limits of %+v = %q", c, got)
		}
	}
}

func TestValidate(t *testing.T) {
	o := Options{
		Limits: []Limit{
			{Amount: -1},
			{Dimension: "d", Algorithm: TokenBucket, Burst: -2},
			{Dimension: "d", Algorithm: "leaky"},
			{Dimension: "d", Resets: []time.Duration{2, 1}},
		},
		ClockSkew: -1, Lease: -1, MaxFindings: -1,
	}
	err := o.Validate()
	for _, want := range []string{
		"limits[0] : dimension: must not be empty", "amount: must be 0 to 2^53, got -1", "burst: must be 0 to 2^53, got -2", "window: must be above 0 for a token_bucket",
		`unknown "leaky"`, "resets: must ascend", "clock_skew: must not", "lease: must not", "max_findings: must be",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate() lacks %q: %v", want, err)
		}
	}
	if _, err := New(Options{}); err == nil || err.Error() != "audit: limits: must have exactly one of limits and limits_of" {
		t.Errorf("New(nothing) = %v", err)
	}
}

func TestCost(t *testing.T) {
	o := Options{Prices: map[string]Price{"m": {Input: 600_000, Output: 800_000}}}
	u := Units{Model: "m", Requests: 2, Input: 100, Output: 11}
	for dimension, want := range map[string]int64{
		Requests: 2, Tokens: 111, InputTokens: 100, OutputTokens: 11, "images": 0,
		Spend: 69, // 60 + 8.8, rounded up
	} {
		if got := o.cost(&Limit{Dimension: dimension}, u); got != want {
			t.Errorf("cost of %s = %d, want %d", dimension, got, want)
		}
	}
	big := Units{Model: "m", Input: 1 << 53, Output: 1 << 53}
	if got, want := o.cost(&Limit{Dimension: Spend}, big), int64(amount.Max)/5*7; got < want-10 || got > want+10 {
		t.Errorf("a large cost = %d, want about %d", got, want)
	}
}

func TestRefill(t *testing.T) {
	for _, c := range []struct{ amount, window, total int64 }{
		{1, 1e9, 10},
		{1_000_000, 60e9, 1e12},
		{amount.Max, 86_400e9, 1 << 55},
		{7, 3, 1},
		{0, 1e9, 100},
	} {
		r, ok := newRefill(c.amount, c.window, 1000, 1000+3600e9, c.total)
		if !ok {
			t.Errorf("%+v: not ok", c)
			continue
		}
		for _, d := range []int64{0, 1, 999, 1e9, 3600e9} {
			want := float64(d) * float64(c.amount) / float64(c.window)
			got := float64(r.at(1000+d)) / float64(int64(1)<<r.shift)
			if got > want*(1+1e-12) || got < want*(1-1e-12)-1 {
				t.Errorf("%+v: after %d got %v, want %v", c, d, got, want)
			}
		}
	}
	if _, ok := newRefill(amount.Max, 1, 0, 1e15, 0); ok {
		t.Error("2^53 per ns can be judged for days, want not")
	}
}

func TestSizes(t *testing.T) {
	if got := unsafe.Sizeof(record{}); got > 64 {
		t.Errorf("a record has %d bytes, want 64 as the package says", got)
	}
}

func TestFormatValue(t *testing.T) {
	for n, want := range map[int64]string{0: "$0.00", 1_500_000: "$1.50", 31: "$0.000031", 12_345_000_000: "$12,345.00"} {
		if got := formatValue(Spend, n); got != want {
			t.Errorf("formatValue(spend, %d) = %s, want %s", n, got, want)
		}
	}
}
