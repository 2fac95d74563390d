// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// requestLimits returns the limit on requests of each tier.
func requestLimits(t *testing.T, scale int) map[string]int64 {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(policyText(scale)), limiter.NewCatalog())
	if err != nil {
		t.Fatalf("scale %d: %v", scale, err)
	}
	limits := map[string]int64{}
	for _, c := range classes {
		var plan limiter.Plan
		if err := p.Resolve(limiter.Time{}, "key", c.tier, "", &plan); err != nil {
			t.Fatalf("tier %s: %v", c.tier, err)
		}
		for _, l := range plan.Levels[0].Limits.Limits() {
			if l.Dimension == limiter.Requests {
				limits[c.tier] = l.Amount
			}
		}
	}
	return limits
}

// The bound for small charges applies to exactly one tier, at each scale.
func TestOnlySmallChargesAreSmall(t *testing.T) {
	for scale := 1; scale <= maxScale; scale++ {
		for tier, limit := range requestLimits(t, scale) {
			if got, want := 100 < limit, tier == small; got != want {
				t.Errorf("scale %d: tier %s: one of %d requests is less than 1 %%: %t, want %t", scale, tier, limit, got, want)
			}
		}
	}
}

func TestSameSeedSameCalls(t *testing.T) {
	calls := func(prefix string, seed uint64) (list []bench.Call) {
		l := newLoad(prefix, classes, seed, time.Minute)
		for range 1_000 {
			var c bench.Call
			l.Next(&c)
			if k := l.keys[l.index[c.Key]]; k.name != c.Key || k.tier != c.Tier {
				t.Fatalf("call of %s in tier %s has the key %+v", c.Key, c.Tier, k)
			}
			if isSmall(c.Key) != (c.Tier == small) {
				t.Fatalf("isSmall(%q) = %t in tier %s", c.Key, isSmall(c.Key), c.Tier)
			}
			list = append(list, c)
		}
		return list
	}
	a := calls("c0", 1)
	if !reflect.DeepEqual(a, calls("c0", 1)) {
		t.Error("the same seed made other calls")
	}
	if reflect.DeepEqual(a, calls("c0", 2)) {
		t.Error("another seed made the same calls")
	}
	keys := map[string]bool{}
	for _, c := range a {
		keys[c.Key] = true
	}
	for _, c := range calls("c1", 1) {
		if keys[c.Key] {
			t.Fatalf("two iterations share the key %s", c.Key)
		}
	}
}

// Each tier of the load with waiters has limits for which calls wait, and the keys of teams are below
// those of the team.
func TestWaiterPolicy(t *testing.T) {
	p, err := policy.Parse("policy.yaml", []byte(waiterPolicy), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	l := newLoad("c0", waiterClasses, 1, time.Minute)
	for _, k := range l.keys {
		var plan limiter.Plan
		if err := p.Resolve(limiter.Time{}, k.name, k.tier, "", &plan); err != nil {
			t.Fatalf("tier %s: %v", k.tier, err)
		}
		if want := 1 + strings.Count(k.name, "/"); plan.Count != want {
			t.Errorf("%s has limits at %d levels, want %d", k.name, plan.Count, want)
		}
		for i := range plan.Levels[:plan.Count] {
			waits := false
			for _, limit := range plan.Levels[i].Limits.Limits() {
				waits = waits || limit.Queue.MaxWait > 0
				if limit.Queue.MaxWait > longestWait {
					t.Errorf("%s: calls wait for %v, longer than %v", k.name, limit.Queue.MaxWait, longestWait)
				}
			}
			if !waits {
				t.Errorf("%s: no call waits at level %d", k.name, i)
			}
		}
	}
}
