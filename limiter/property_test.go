// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// Each property makes the same random calls to an engine and to the naive model of
// internal/oracle, and compares every result.

func TestTokenBucketIsTheModel(t *testing.T) {
	testOneLimit(t, limiter.TokenBucket)
}

func TestSlidingWindowIsTheModel(t *testing.T) {
	testOneLimit(t, limiter.SlidingWindow)
}

func TestFixedWindowIsTheModel(t *testing.T) {
	testOneLimit(t, limiter.FixedWindow)
}

func TestConcurrencyIsTheModel(t *testing.T) {
	testOneLimit(t, limiter.Concurrency)
}

func testOneLimit(t *testing.T, a limiter.Algorithm) {
	rapid.Check(t, func(t *rapid.T) {
		l := drawLimit(t, "limit", a)
		run(t, []string{"k"}, func(c *limiter.Catalog, key string) *limiter.Plan {
			set, err := c.LimitSet([]limiter.Limit{l})
			if err != nil {
				t.Fatalf("LimitSet(%+v) = %v", l, err)
			}
			return plan(key, set)
		})
	})
}

// TestLevelsTogetherAreTheModel mixes limits of all algorithms on two or three levels.
func TestLevelsTogetherAreTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var levels [3][]limiter.Limit
		for i := range rapid.IntRange(4, 6).Draw(t, "limits") {
			a := limiter.Algorithm(rapid.IntRange(1, 4).Draw(t, "algorithm"))
			level := rapid.IntRange(0, 2).Draw(t, "level")
			levels[level] = append(levels[level], drawLimit(t, fmt.Sprint("limit-", i), a))
		}
		var estimates [3]limiter.Estimate
		for i := range estimates {
			estimates[i] = limiter.Estimate{Mode: limiter.EstimateMode(rapid.IntRange(0, 2).Draw(t, "mode")), Output: 40}
		}
		run(t, []string{"acme/alice", "acme/bob", "acme/bob/x"}, func(c *limiter.Catalog, key string) *limiter.Plan {
			var sets []*limiter.LimitSet
			for i := range levels {
				set, err := c.LimitSet(levels[i])
				if err != nil {
					t.Fatalf("LimitSet(%+v) = %v", levels[i], err)
				}
				sets = append(sets, set)
			}
			if key != "acme/bob/x" {
				sets = sets[:2]
			}
			p := plan(key, sets...)
			for i := range p.Count {
				p.Levels[i].Estimate = estimates[i]
			}
			return p
		})
	})
}

// run plays a random history for keys under the plans that planOf gives.
func run(t *rapid.T, keys []string, planOf func(*limiter.Catalog, string) *limiter.Plan) {
	m := newMachine(t, keys)
	for _, key := range keys {
		m.plans[key] = planOf(m.catalog, key)
		m.plans[key].Rates = m.rates
		for _, level := range m.plans[key].Levels[:m.plans[key].Count] {
			for _, l := range level.Limits.Limits() {
				m.slides = m.slides || l.Algorithm == limiter.SlidingWindow
			}
		}
		m.plans[key].Version, m.plans[key].DefaultOutput = 7, 64
	}
	t.Repeat(m.actions())
	m.finish(t)
}

func newMachine(t *rapid.T, keys []string) *machine {
	m := &machine{pair: newPair(), keys: keys, plans: map[string]*limiter.Plan{}, overrun: map[limiter.Dimension]int64{}, scale: 200}
	m.now = limiter.Time{Mono: rapid.Int64Range(0, 1e12).Draw(t, "mono"), Wall: drawWall(t)}
	m.rates = limiter.Rates{Priced: true, InputPrice: 1e6, CachedInputPrice: 250_000, OutputPrice: 1_333_333, Weights: limiter.DefaultWeights}
	if rapid.IntRange(0, 3).Draw(t, "weighted") == 0 {
		m.rates.Weights = limiter.Weights{Input: 700_000, CachedInput: 0, Output: 1_500_001}
	}
	if rapid.Bool().Draw(t, "extra prices") {
		tiers, err := limiter.NewServiceTiers(map[string]int64{"flex": 500_000, "odd": 1_333_333, "priority": 2e6})
		if err != nil {
			t.Fatal(err)
		}
		m.rates.ServiceTiers = tiers
		m.rates.CacheWritePrice, m.rates.CacheWrite1hPrice = 1_250_001, 2e6
		m.rates.RequestFee, m.rates.ImageFee, m.rates.SearchFee = 3, 7, 11
	}
	if rapid.IntRange(0, 9).Draw(t, "unpriced") == 0 {
		m.rates.Priced = false
	}
	return m
}

func drawLimit(t *rapid.T, name string, a limiter.Algorithm) limiter.Limit {
	l := limiter.Limit{Name: name, Algorithm: a, Dimension: limiter.Concurrent}
	l.Shadow = rapid.IntRange(0, 5).Draw(t, "shadow") == 0
	l.Closed = !l.Shadow && rapid.IntRange(0, 9).Draw(t, "closed") == 0
	if rapid.IntRange(0, 2).Draw(t, "has headroom") == 0 {
		l.Headroom.Standard = rapid.SampledFrom([]int64{0, 1, 100_000, 333_333}).Draw(t, "headroom of standard")
		l.Headroom.Batch = rapid.SampledFrom([]int64{l.Headroom.Standard, 400_000, 999_999, 1_000_000}).Draw(t, "headroom of batch")
	}
	l.Amount = rapid.SampledFrom([]int64{0, 1, 2, 3, 5}).Draw(t, "slots")
	if a == limiter.Concurrency {
		return l
	}
	l.Dimension = rapid.SampledFrom([]limiter.Dimension{
		limiter.Tokens, limiter.Tokens, limiter.Spend, limiter.Requests, limiter.InputTokens, limiter.OutputTokens, "images",
	}).Draw(t, "dimension")
	l.Degrade = rapid.Bool().Draw(t, "degrade")
	l.Amount = rapid.SampledFrom([]int64{0, 1, 100, 333, 500, 997}).Draw(t, "amount")
	if l.Dimension == limiter.Requests {
		l.Amount = rapid.Int64Range(0, 8).Draw(t, "requests")
	}
	if l.Amount > 0 && rapid.IntRange(0, 5).Draw(t, "share") == 0 {
		l.FullCapacity = 2*l.Amount + 100
	}
	l.Window = rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second, time.Minute, time.Minute + 1, time.Hour}).Draw(t, "window")
	switch {
	case a == limiter.TokenBucket && l.Amount > 0 && rapid.Bool().Draw(t, "has burst"):
		l.Burst = rapid.Int64Range(1, 2*l.Amount).Draw(t, "burst")
	case a == limiter.FixedWindow && rapid.Bool().Draw(t, "calendar"):
		l.Window = 0
		l.Calendar = limiter.Calendar(rapid.IntRange(int(limiter.Hour), int(limiter.Year)).Draw(t, "unit"))
		l.Zone = rapid.SampledFrom(zones).Draw(t, "zone")
		drawStart(t, &l)
	}
	return l
}

// drawWall returns a start shortly before a change of the calendar or the clock.
func drawWall(t *rapid.T) int64 {
	edge := rapid.SampledFrom([]string{
		"2026-03-04T12:00:00Z", "2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z", "2026-03-29T01:00:00Z",
		"2026-10-25T01:00:00Z", "2028-02-29T00:00:00Z", "2026-12-31T23:00:00Z",
	}).Draw(t, "day")
	at, err := time.Parse(time.RFC3339, edge)
	if err != nil {
		t.Fatal(err)
	}
	return at.UnixNano() - rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "before")
}

// zones have daylight saving time, offsets of half an hour, and neither.
var zones = []*time.Location{nil, zone("America/New_York"), zone("Europe/Berlin"), zone("Asia/Kolkata"), zone("Australia/Lord_Howe")}

func zone(name string) *time.Location {
	z, err := time.LoadLocation(name)
	if err != nil {
		panic(err)
	}
	return z
}
