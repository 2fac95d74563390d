// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

const most = limiter.MaxAmount

// hugeLimits have the largest amount in the longest window.
func hugeLimits() []limiter.Limit {
	return []limiter.Limit{
		{Name: "bucket", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: most, Burst: most, Window: 400 * 24 * time.Hour},
		{Name: "slow", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 1, Burst: most, Window: 400 * 24 * time.Hour},
		{Name: "sliding", Dimension: limiter.InputTokens, Algorithm: limiter.SlidingWindow, Amount: most, Window: 400 * 24 * time.Hour},
		{Name: "fixed", Dimension: "images", Algorithm: limiter.FixedWindow, Amount: most, Calendar: limiter.Month},
	}
}

func TestHugeAmountsAreExact(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", hugeLimits()...)
	p.Rates.Priced = false
	r := &limiter.Request{Key: "k", Plan: p, InputTokens: most - 1, Costs: []limiter.Cost{{Dimension: "images", Amount: most - 1}}}
	wantOutcome(t, "2^53 - 1", n.check(noon, r), limiter.Allowed)
	one := &limiter.Request{Key: "k", Plan: p, InputTokens: 1, Costs: []limiter.Cost{{Dimension: "images", Amount: 1}}}
	d := n.check(noon, one)
	wantOutcome(t, "the last one", d, limiter.Allowed)
	for i := range d.Limits {
		if got := d.Limits[i].Remaining; got != 0 {
			t.Errorf("%s: remaining = %d, want 0", d.Limits[i].Name, got)
		}
		if got := d.Limits[i].ResetAt; got <= noon.Wall {
			t.Errorf("%s: reset_at = %d, want a time to come", d.Limits[i].Name, got)
		}
	}
	d = n.check(noon, one)
	wantOutcome(t, "one more", d, limiter.Denied)
	if d.RetryAfter <= 0 {
		t.Errorf("retry_after = %s, want a time to come", d.RetryAfter)
	}
	wantUsed(t, "after a century", n.peek(noon.Add(100*365*24*time.Hour), one), 0, 0)
}

func TestHugeDebtIsExact(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", hugeLimits()...)
	p.Rates.Priced = false
	n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: p, InputTokens: most, Costs: []limiter.Cost{{Dimension: "images", Amount: most}}})
	d := n.settle(noon, limiter.Usage{Key: "k", ID: "r", InputTokens: most, OutputTokens: 0, Final: true})
	for range 3 {
		d = n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: most})
		wantOutcome(t, "2^53 more", d, limiter.Denied)
	}
	wantUsed(t, "a full bucket", d, 0, most)
}

func TestCostsAboveTheMaximumAreRejected(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", hugeLimits()...)
	dear := n.plan("k", limiter.Limit{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: most, Calendar: limiter.Day})
	dear.Rates.InputPrice, dear.Rates.OutputPrice = math.MaxInt64, math.MaxInt64
	heavy := n.plan("k", hugeLimits()...)
	heavy.Rates.Weights.Output = 2e6
	for name, r := range map[string]*limiter.Request{
		"input + output":    {Plan: p, InputTokens: most, OutputTokens: 1},
		"n x output":        {Plan: p, OutputTokens: most/2 + 1, Choices: 2},
		"n":                 {Plan: p, OutputTokens: 3, Choices: most},
		"a price":           {Plan: dear, InputTokens: most},
		"two prices":        {Plan: dear, InputTokens: most / 2, OutputTokens: most / 2},
		"a weight":          {Plan: heavy, OutputTokens: most/2 + 1},
		"max int n, output": {Plan: p, OutputTokens: math.MaxInt64, Choices: math.MaxInt64},
	} {
		r.Key, r.ID = "k", name
		var d limiter.Decision
		var field *limiter.FieldError
		if err := n.Reserve(noon, r, &d); !errors.As(err, &field) || field.Field == "" {
			t.Errorf("Reserve(%s) = %s, %v, want an error that names the field", name, d.Outcome, err)
		}
		if r.Choices == 0 {
			if err := n.Check(noon, r, &d); !errors.As(err, &field) || field.Field == "" {
				t.Errorf("Check(%s) = %s, %v, want an error that names the field", name, d.Outcome, err)
			}
		}
	}
	for _, plan := range []*limiter.Plan{p, dear} {
		for _, s := range n.peek(noon, &limiter.Request{Key: "k", Plan: plan}).Limits {
			if used(s) != 0 {
				t.Errorf("%s: used = %d after rejected requests, want 0", s.Name, used(s))
			}
		}
	}
}

func TestUsageAboveTheMaximumIsRejected(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", hugeLimits()...)
	n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: p, InputTokens: 10})
	before := n.peek(noon, &limiter.Request{Key: "k", Plan: p})
	for name, u := range map[string]limiter.Usage{
		"input":               {InputTokens: most + 1},
		"output":              {OutputTokens: most + 1},
		"sum":                 {InputTokens: most, OutputTokens: most},
		"cached beyond input": {InputTokens: 5, CachedInputTokens: 6},
		"max int":             {InputTokens: math.MaxInt64, OutputTokens: math.MaxInt64},
	} {
		u.Key, u.ID, u.Final = "k", "r", true
		var d limiter.Decision
		var field *limiter.FieldError
		if err := n.Settle(noon, &u, &d); !errors.As(err, &field) || field.Field == "" {
			t.Errorf("Settle(%s) = %v, want an error that names the field", name, err)
		}
	}
	sameDecision(t, "after rejected settles", n.peek(noon, &limiter.Request{Key: "k", Plan: p}), before)
}

func TestInvalidLimitsAreRejected(t *testing.T) {
	good := limiter.Limit{Name: "x", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 1, Window: time.Minute}
	for name, change := range map[string]func(*limiter.Limit){
		"no name":                 func(l *limiter.Limit) { l.Name = "" },
		"no dimension":            func(l *limiter.Limit) { l.Dimension = "" },
		"negative":                func(l *limiter.Limit) { l.Amount = -1 },
		"too large":               func(l *limiter.Limit) { l.Amount = most + 1 },
		"burst too large":         func(l *limiter.Limit) { l.Burst = most + 1 },
		"burst of nothing":        func(l *limiter.Limit) { l.Amount, l.Burst = 0, 5 },
		"window of 0":             func(l *limiter.Limit) { l.Window = 0 },
		"a negative window":       func(l *limiter.Limit) { l.Window = -time.Second },
		"window too long":         func(l *limiter.Limit) { l.Window = 1000 * 24 * time.Hour },
		"no algorithm":            func(l *limiter.Limit) { l.Algorithm = 0 },
		"an unknown algorithm":    func(l *limiter.Limit) { l.Algorithm = 9 },
		"a calendar bucket":       func(l *limiter.Limit) { l.Window, l.Calendar = 0, limiter.Day },
		"slots of tokens":         func(l *limiter.Limit) { l.Algorithm, l.Window = limiter.Concurrency, 0 },
		"a bucket of slots":       func(l *limiter.Limit) { l.Dimension = limiter.Concurrent },
		"a sliding burst":         func(l *limiter.Limit) { l.Algorithm, l.Burst = limiter.SlidingWindow, 5 },
		"closed in shadow":        func(l *limiter.Limit) { l.Closed, l.Shadow = true, true },
		"a share of less":         func(l *limiter.Limit) { l.Amount, l.FullCapacity = 10, 9 },
		"a share of less burst":   func(l *limiter.Limit) { l.Burst, l.FullCapacity = 10, 9 },
		"a negative whole":        func(l *limiter.Limit) { l.FullCapacity = -1 },
		"a whole too large":       func(l *limiter.Limit) { l.FullCapacity = most + 1 },
		"a share of 0":            func(l *limiter.Limit) { l.Amount, l.FullCapacity = 0, 9 },
		"an unknown calendar day": func(l *limiter.Limit) { l.Algorithm, l.Window, l.Calendar = limiter.FixedWindow, 0, 77 },
	} {
		l := good
		change(&l)
		var problem *limiter.LimitError
		if _, err := limiter.NewCatalog().LimitSet([]limiter.Limit{l}); !errors.As(err, &problem) || problem.Field == "" {
			t.Errorf("LimitSet with %s = %v, want an error that names the field", name, err)
		}
	}
	if _, err := limiter.NewCatalog().LimitSet([]limiter.Limit{good, good}); err == nil {
		t.Error("LimitSet with a name used twice = nil, want an error")
	}
}
