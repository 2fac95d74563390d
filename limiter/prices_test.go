// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// prices are those of shared test cases of usage: input 1, cached input 0.10, cache writes
// 1.25 and 2, and output 10 dollars per million tokens.
func prices(t testing.TB) limiter.Rates {
	t.Helper()
	tiers, err := limiter.NewServiceTiers(map[string]int64{"flex": 500_000, "priority": 2e6, "odd": 1})
	if err != nil {
		t.Fatal(err)
	}
	return limiter.Rates{
		Priced: true, InputPrice: 1e6, CachedInputPrice: 1e5, CacheWritePrice: 1_250_000, CacheWrite1hPrice: 2e6, OutputPrice: 1e7,
		RequestFee: 5, ImageFee: 40_000, SearchFee: 10_000, ServiceTiers: tiers, Weights: limiter.DefaultWeights,
	}
}

func spendLimit() limiter.Limit {
	return limiter.Limit{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1 << 52, Calendar: limiter.Day}
}

func TestSpendOfUsage(t *testing.T) {
	for _, tt := range []struct {
		name  string
		asked string // service tier of the reserve
		free  bool   // no fees
		usage limiter.Usage
		want  int64 // micros
	}{
		{"messages: cache writes have prices of their own", "", true, limiter.Usage{InputTokens: 10018, CacheWriteTokens: 4000, CacheWrite1hTokens: 6000, OutputTokens: 26}, 17278},
		{"all parts of the input", "", true, limiter.Usage{InputTokens: 1000, CachedInputTokens: 500, CacheWriteTokens: 200, CacheWrite1hTokens: 300}, 50 + 250 + 600},
		{"a fee of the request", "", false, limiter.Usage{InputTokens: 100}, 105},
		{"no fee of a refused call", "", false, limiter.Usage{Rejected: true}, 0},
		{"images and searches", "", false, limiter.Usage{Images: 2, Searches: 3}, 80_000 + 30_000 + 5},
		{"half the price, not of the fees", "", false, limiter.Usage{InputTokens: 1001, Images: 1, ServiceTier: "flex"}, 40_000 + 5 + 501},
		{"rounded up once", "", false, limiter.Usage{InputTokens: 1, OutputTokens: 1, ServiceTier: "odd"}, 5 + 1},
		{"twice the price", "", true, limiter.Usage{InputTokens: 100, OutputTokens: 10, ServiceTier: "priority"}, 400},
		{"a tier that the policy does not know", "", true, limiter.Usage{InputTokens: 100, ServiceTier: "default"}, 100},
		{"dearer as asked, if nothing was given", "priority", true, limiter.Usage{InputTokens: 100}, 200},
		{"not cheaper as asked, if nothing was given", "flex", true, limiter.Usage{InputTokens: 100}, 100},
		{"cheaper as given", "priority", true, limiter.Usage{InputTokens: 100, ServiceTier: "flex"}, 50},
		{"the normal price as given", "priority", true, limiter.Usage{InputTokens: 100, ServiceTier: "default"}, 100},
	} {
		n := newNode(t, limiter.Options{})
		p := n.plan("k", spendLimit())
		p.Rates = prices(t)
		if tt.free {
			p.Rates.RequestFee, p.Rates.ImageFee, p.Rates.SearchFee = 0, 0, 0
		}
		n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: p, Requests: 1, InputTokens: 10, ServiceTier: tt.asked})
		u := tt.usage
		u.Key, u.ID, u.Final = "k", "r", true
		var d limiter.Decision
		if err := n.Settle(noon, &u, &d); err != nil {
			t.Errorf("%s: Settle() = %v", tt.name, err)
			continue
		}
		if got := used(d.Limits[0]); got != tt.want || d.Limits[0].Cost != tt.want {
			t.Errorf("%s: used %d, cost %d, want %d", tt.name, got, d.Limits[0].Cost, tt.want)
		}
	}
}

// TestEstimateHasFeesAndNoDiscount also shows that a check, which nothing settles, is
// charged by its service tier.
func TestEstimateHasFeesAndNoDiscount(t *testing.T) {
	for _, tt := range []struct {
		tier           string
		reserve, check int64
	}{
		{"", 10 + 200 + 10, 10 + 200 + 10},
		{"other", 10 + 200 + 10, 10 + 200 + 10},
		{"flex", 10 + 200 + 10, 105 + 10},
		{"priority", 420 + 10, 420 + 10},
	} {
		n := newNode(t, limiter.Options{})
		p := n.plan("k", spendLimit())
		p.Rates = prices(t)
		r := &limiter.Request{Key: "k", ID: "r", Plan: p, Requests: 2, InputTokens: 10, OutputTokens: 20, ServiceTier: tt.tier}
		if d := n.reserve(noon, r); d.Limits[0].Cost != tt.reserve {
			t.Errorf("reserve with service tier %q costs %d, want %d", tt.tier, d.Limits[0].Cost, tt.reserve)
		}
		r.ID = "c"
		var d limiter.Decision
		if err := n.Check(noon, r, &d); err != nil || d.Limits[0].Cost != tt.check {
			t.Errorf("check with service tier %q costs %d (%v), want %d", tt.tier, d.Limits[0].Cost, err, tt.check)
		}
	}
}

// TestExpiryChargesExtrasOfProgress includes a move of the state to another engine: what
// few reservations have must be in a snapshot.
func TestExpiryChargesExtrasOfProgress(t *testing.T) {
	for _, moved := range []bool{false, true} {
		n := newNode(t, limiter.Options{})
		p := n.plan("k", spendLimit())
		p.Rates = prices(t)
		n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: p, Requests: 3, InputTokens: 10, OutputTokens: 5000, ServiceTier: "priority"})
		u := &limiter.Usage{Key: "k", ID: "r", InputTokens: 1000, CacheWriteTokens: 400, CacheWrite1hTokens: 600, OutputTokens: 7, Images: 1}
		var d limiter.Decision
		if err := n.Settle(noon, u, &d); err != nil {
			t.Fatal(err)
		}
		if moved {
			data := n.Snapshot(noon, limiter.PartitionOf("k"), nil)
			fresh := limiter.New(limiter.Options{Catalog: n.catalog})
			if err := fresh.Restore(noon, limiter.PartitionOf("k"), data, time.LoadLocation); err != nil {
				t.Fatal(err)
			}
			n.Engine = fresh
		}
		later := noon.Add(31 * time.Second)
		want := int64(2*(500+1200+70) + 15 + 40_000)
		if got := used(n.peek(later, &limiter.Request{Key: "k", Plan: p}).Limits[0]); got != want {
			t.Errorf("moved %v: used %d after the lease, want %d", moved, got, want)
		}
		late := *u
		late.Final, late.ServiceTier = true, "flex"
		if err := n.Settle(later, &late, &d); err != nil || used(d.Limits[0]) != 885+15+40_000 {
			t.Errorf("moved %v: used %d after a late settle (%v), want %d", moved, used(d.Limits[0]), err, 885+15+40_000)
		}
	}
}

func TestSpendBeyondRangeIsRejected(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", spendLimit())
	p.Rates = prices(t)
	p.Rates.ImageFee = most
	n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: p, Requests: 1, InputTokens: 10})
	before := n.peek(noon, &limiter.Request{Key: "k", Plan: p})
	for name, tt := range map[string]struct {
		usage limiter.Usage
		field string
	}{
		"writes beyond input":  {limiter.Usage{InputTokens: 5, CachedInputTokens: 3, CacheWriteTokens: 3}, "cache_write_tokens"},
		"1h beyond input":      {limiter.Usage{InputTokens: 5, CacheWriteTokens: 1, CacheWrite1hTokens: 5}, "cache_write_1h_tokens"},
		"writes beyond range":  {limiter.Usage{CacheWriteTokens: math.MaxInt64}, "cache_write_tokens"},
		"images":               {limiter.Usage{Images: 2}, "images"},
		"images beyond range":  {limiter.Usage{Images: most + 1}, "images"},
		"searches":             {limiter.Usage{Searches: most}, "searches"},
		"a factor makes it so": {limiter.Usage{OutputTokens: most / 15, ServiceTier: "priority"}, "output_tokens"},
		"far beyond 127 bits":  {limiter.Usage{InputTokens: most / 2, OutputTokens: most / 2, ServiceTier: "priority"}, "input_tokens"},
	} {
		u := tt.usage
		u.Key, u.ID, u.Final = "k", "r", true
		var d limiter.Decision
		var field *limiter.FieldError
		if err := n.Settle(noon, &u, &d); !errors.As(err, &field) || field.Field != tt.field {
			t.Errorf("%s: Settle() = %v, want an error that names %s", name, err, tt.field)
		}
	}
	sameDecision(t, "after rejected settles", n.peek(noon, &limiter.Request{Key: "k", Plan: p}), before)
}

func TestServiceTiers(t *testing.T) {
	many := map[string]int64{}
	for i := range limiter.MaxServiceTiers + 1 {
		many[strings.Repeat("x", i+1)] = 1
	}
	for name, factors := range map[string]map[string]int64{
		"empty name": {"": 1}, "long name": {strings.Repeat("x", 65): 1}, "not printable": {"a\n": 1},
		"negative": {"a": -1}, "too large": {"a": limiter.MaxServiceFactor + 1}, "too many": many,
	} {
		if _, err := limiter.NewServiceTiers(factors); err == nil {
			t.Errorf("%s: NewServiceTiers(%v) = no error", name, factors)
		}
	}
	given := map[string]int64{"batch": 500_000, "free": 0, "priority": limiter.MaxServiceFactor}
	a, err := limiter.NewServiceTiers(given)
	b, err2 := limiter.NewServiceTiers(map[string]int64{"priority": limiter.MaxServiceFactor, "free": 0, "batch": 500_000})
	if err != nil || err2 != nil || a != b {
		t.Errorf("the same factors are %v (%v) and %v (%v), want equal values", a, err, b, err2)
	}
	for _, name := range []string{"batch", "free", "priority"} {
		if got := a.Factor(name); got != given[name] {
			t.Errorf("Factor(%s) = %d, want %d", name, got, given[name])
		}
	}
	for _, name := range []string{"", "bat", "batches", "Batch"} {
		if got := a.Factor(name); got != 1e6 {
			t.Errorf("Factor(%q) = %d, want 1,000,000", name, got)
		}
	}
}
