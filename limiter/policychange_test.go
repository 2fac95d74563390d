// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

func bucketOf(amount, burst int64) limiter.Limit {
	return limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: amount, Window: time.Minute, Burst: burst}
}

func TestChangedLimitKeepsWhatWasUsed(t *testing.T) {
	window := func(a limiter.Algorithm, amount int64) limiter.Limit {
		return limiter.Limit{Name: "x", Dimension: limiter.Tokens, Algorithm: a, Amount: amount, Window: time.Minute}
	}
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.SlidingWindow, limiter.FixedWindow} {
		t.Run(a.String(), func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			standard, more, less := n.plan("k", window(a, 1000)), n.plan("k", window(a, 5000)), n.plan("k", window(a, 300))
			use := func(p *limiter.Plan, tokens int64) limiter.Decision {
				return n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: tokens})
			}
			wantOutcome(t, "1000 of 1000", use(standard, 1000), limiter.Allowed)

			d := use(more, 1)
			wantOutcome(t, "an upgrade gives headroom at once", d, limiter.Allowed)
			wantUsed(t, "after the upgrade", d, 0, 1001)

			d = use(less, 1)
			wantOutcome(t, "a downgrade leaves debt", d, limiter.Denied)
			if got := d.Limits[0].Debt; got != 701 {
				t.Errorf("debt after the downgrade = %d, want 701", got)
			}

			d = use(standard, 0)
			wantUsed(t, "lowering and raising refills nothing", d, 0, 1001)
			wantOutcome(t, "a cost of 0 in debt", d, limiter.Allowed)
		})
	}
}

func TestPeekWithAnotherTierChangesNothing(t *testing.T) {
	n := newNode(t, limiter.Options{})
	slow, fast := n.plan("k", bucketOf(60, 1000)), n.plan("k", bucketOf(60_000, 1000))
	n.check(noon, &limiter.Request{Key: "k", Plan: slow, InputTokens: 500})
	wantUsed(t, "as the fast tier sees it", n.peek(noon, &limiter.Request{Key: "k", Plan: fast}), 0, 500)
	wantUsed(t, "10 s later", n.peek(noon.Add(10*time.Second), &limiter.Request{Key: "k", Plan: slow}), 0, 490)
}

// TestChangingLimitsIsTheModel changes amount, burst and mode all the time.
func TestChangingLimitsIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := limiter.Algorithm(rapid.IntRange(1, 4).Draw(t, "algorithm"))
		first := drawLimit(t, "limit", a)
		limits := []limiter.Limit{first}
		for range 2 {
			l := first
			l.Amount, l.Burst, l.FullCapacity = rapid.Int64Range(0, 2*first.Amount+1).Draw(t, "amount"), 0, 0
			l.Closed = !l.Shadow && rapid.IntRange(0, 5).Draw(t, "closed now") == 0
			if a == limiter.TokenBucket && l.Amount > 0 {
				l.Burst = rapid.Int64Range(0, 2*l.Amount).Draw(t, "burst")
			}
			l.Degrade = rapid.Bool().Draw(t, "degrade")
			limits = append(limits, l)
		}
		m := newMachine(t, []string{"k"})
		m.slides = a == limiter.SlidingWindow
		var plans []*limiter.Plan
		for _, l := range limits {
			set, err := m.catalog.LimitSet([]limiter.Limit{l})
			if err != nil {
				t.Fatalf("LimitSet(%+v) = %v", l, err)
			}
			p := plan("k", set)
			p.Rates = m.rates
			plans = append(plans, p)
		}
		m.plans["k"] = plans[0]
		actions := m.actions()
		actions["tier"] = func(t *rapid.T) { m.plans["k"] = rapid.SampledFrom(plans).Draw(t, "plan") }
		t.Repeat(actions)
	})
}

func TestAnotherWindowKeepsUsageAndOpenReservations(t *testing.T) {
	n := newNode(t, limiter.Options{})
	perMinute := n.plan("k", bucketOf(600, 1000))
	hourly := bucketOf(36_000, 1000)
	hourly.Window = time.Hour // the same rate
	perHour := n.plan("k", hourly)
	n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: perMinute, OutputTokens: 300})
	n.check(noon.Add(time.Second), &limiter.Request{Key: "k", Plan: perMinute, InputTokens: 100})
	d := n.check(noon.Add(2*time.Second), &limiter.Request{Key: "k", Plan: perHour})
	wantUsed(t, "under the hourly limit", d, 0, 400-20)
	d = n.settle(noon.Add(3*time.Second), limiter.Usage{Key: "k", ID: "r", OutputTokens: 50, Final: true})
	wantUsed(t, "settled under the hourly limit", d, 0, 150-30)
	d = n.check(noon.Add(4*time.Second), &limiter.Request{Key: "k", Plan: perMinute})
	wantUsed(t, "back under the limit per minute", d, 0, 150-40)
}

func TestAnotherAlgorithmKeepsUsage(t *testing.T) {
	n := newNode(t, limiter.Options{})
	limit := func(a limiter.Algorithm) *limiter.Plan {
		return n.plan("k", limiter.Limit{Name: "x", Dimension: limiter.Tokens, Algorithm: a, Amount: 1000, Window: time.Minute})
	}
	plans := []*limiter.Plan{limit(limiter.TokenBucket), limit(limiter.SlidingWindow), limit(limiter.FixedWindow), limit(limiter.TokenBucket)}
	n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: plans[0], InputTokens: 400, OutputTokens: 300})
	for _, p := range plans {
		d := n.check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: 10})
		if got := used(d.Limits[0]); got < 710 {
			t.Errorf("used as a %s = %d, want at least 710", d.Limits[0].Algorithm, got)
		}
	}
	d := n.settle(noon, limiter.Usage{Key: "k", ID: "r", InputTokens: 400, OutputTokens: 100, Final: true})
	wantUsed(t, "settled after three changes", d, 0, 540)
}

// TestLimitsThatATierLacksStay checks that usage and open reservations of a limit are
// kept while the key is used under a tier without it.
func TestLimitsThatATierLacksStay(t *testing.T) {
	n := newNode(t, limiter.Options{})
	spend := limiter.Limit{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1_000_000, Calendar: limiter.Day}
	both := n.plan("k", bucketOf(6000, 0), spend)
	tokensOnly := n.plan("k", bucketOf(7000, 0)) // another definition, so the record is migrated
	spendOnly := n.plan("k", spend)
	both.Levels[0].Estimate.Mode = limiter.EstimateInput

	n.reserve(noon, &limiter.Request{Key: "k", ID: "r", Plan: both}) // charges nothing yet
	n.check(noon, &limiter.Request{Key: "k", Plan: tokensOnly, InputTokens: 100})
	n.settle(noon, limiter.Usage{Key: "k", ID: "r", OutputTokens: 50, Final: true})
	d := n.check(noon, &limiter.Request{Key: "k", Plan: spendOnly})
	wantUsed(t, "spend settled under another tier", d, 0, 100)
	d = n.check(noon, &limiter.Request{Key: "k", Plan: both})
	wantUsed(t, "tokens used under the other tier", d, 0, 150)
}

// TestModelsHaveTheirOwnState checks that a limit per model has one bucket for each
// model, and one for requests without a model.
func TestModelsHaveTheirOwnState(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("k", bucketOf(6000, 0))
	p.Levels[0].Model = mustSet(t, n.catalog, limiter.Limit{Name: "preview", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 100, Window: time.Minute})
	for _, model := range []string{"", "a", "b", "a-model-with-a-name-that-is-longer-than-what-a-record-holds-inline"} {
		ask := &limiter.Request{Key: "k", Model: model, Plan: p, InputTokens: 100}
		wantOutcome(t, "100 of model "+model, n.check(noon, ask), limiter.Allowed)
		d := n.check(noon, ask)
		wantOutcome(t, "100 more of model "+model, d, limiter.Denied)
		if b := d.Limits[d.Binding]; b.Name != "preview" || b.Scope != "k" {
			t.Errorf("binding = %s of %s, want preview of k", b.Name, b.Scope)
		}
	}
	wantUsed(t, "all models together", n.peek(noon, &limiter.Request{Key: "k", Model: "a", Plan: p}), 0, 400)
}
