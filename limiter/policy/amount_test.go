// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// TestDecimalsAreExact compares with rational numbers.
func TestDecimalsAreExact(t *testing.T) {
	limit := big.NewInt(limiter.MaxAmount)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[0-9]{1,12}(\.[0-9]{1,8})?`).Draw(t, "text")
		exact, _ := new(big.Rat).SetString(text)
		exact.Mul(exact, big.NewRat(micros, 1))
		_, fraction, _ := strings.Cut(text, ".")
		ok := len(fraction) <= 6 && exact.Num().Cmp(limit) <= 0
		got, err := parseDecimal(text, 6)
		if (err == nil) != ok {
			t.Fatalf("parseDecimal(%q) = %d, %v, want success: %v", text, got, err, ok)
		}
		if err == nil && new(big.Rat).SetInt64(got).Cmp(exact) != 0 {
			t.Fatalf("parseDecimal(%q) = %d, want %s", text, got, exact)
		}
	})
}

func TestAmountsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, limiter.MaxAmount).Draw(t, "n")
		for _, d := range []limiter.Dimension{limiter.Spend, limiter.Tokens} {
			text := FormatAmount(d, n)
			if got, err := ParseAmount(d, text); err != nil || got != n {
				t.Fatalf("ParseAmount(%s, %q) = %d, %v, want %d", d, text, got, err, n)
			}
		}
	})
}

func TestAmounts(t *testing.T) {
	for _, test := range []struct {
		d    limiter.Dimension
		text string
		want int64
	}{
		{limiter.Tokens, "10_000", 10_000},
		{limiter.Tokens, "9007199254740992", limiter.MaxAmount},
		{limiter.Tokens, "100k", 100_000},
		{limiter.Requests, "10K", 10_000},
		{limiter.Tokens, "1.5M", 1_500_000},
		{limiter.Tokens, "1_000.001k", 1_000_001},
		{limiter.Tokens, "2B", 2_000_000_000},
		{limiter.Tokens, "9007199.254740992B", limiter.MaxAmount},
		{limiter.Spend, "$2.5k", 2_500 * micros},
		{limiter.Spend, "$2_000", 2_000 * micros},
		{limiter.Spend, "$0.000001", 1},
		{limiter.Spend, "$0.1", 100_000},
		{limiter.Spend, "$9007199254.740992", limiter.MaxAmount},
	} {
		if got, err := ParseAmount(test.d, test.text); err != nil || got != test.want {
			t.Errorf("ParseAmount(%s, %q) = %d, %v, want %d", test.d, test.text, got, err, test.want)
		}
	}
	for _, text := range []string{"", "_1", "1_", "1__0", "1e3", "0x10", "+1", "-1", "1.", "1.0", ".5", " 1", "١", "9007199254740993", "99999999999999999999", "1m", "1kk", "k", "1.0001k", "9007199.254740993B", "1 k", "1G"} {
		if got, err := ParseAmount(limiter.Tokens, text); err == nil {
			t.Errorf("ParseAmount(tokens, %q) = %d, want an error", text, got)
		}
	}
	for _, text := range []string{"1", "$", "$.5", "$1.", "$1.0000001", "$-1", "$$1", "€1", "$9007199254.740993"} {
		if got, err := ParseAmount(limiter.Spend, text); err == nil {
			t.Errorf("ParseAmount(spend, %q) = %d, want an error", text, got)
		}
	}
}

func TestDurationsAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Minute: "1m", time.Hour: "1h", 90 * time.Minute: "1h30m", 30 * time.Second: "30s",
		90 * time.Second: "1m30s", time.Hour + time.Second: "1h0m1s", 100 * time.Millisecond: "100ms", 10 * time.Minute: "10m", 20 * time.Hour: "20h",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%v) = %s, want %s", time.Duration(d), got, want)
		}
		if w, err := parseWindow(want); err != nil || w.length != d {
			t.Errorf("parseWindow(%s) = %v, %v, want %v", want, w.length, err, time.Duration(d))
		}
	}
}
