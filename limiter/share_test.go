// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// dailyTokens is a budget of so many tokens a day.
func dailyTokens(amount int64) limiter.Limit {
	return limiter.Limit{Name: "daily", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: amount, Calendar: limiter.Day}
}

// under returns a request for n tokens of the key with number i under a root.
func under(root string, i int, set *limiter.LimitSet, n int64) *limiter.Request {
	key := root + "/" + strconv.Itoa(i)
	return &limiter.Request{Key: key, Plan: plan(key, nil, set), InputTokens: n}
}

// TestAlmostUnusedBudgetsMakeRoom floods a table with keys that each used one token of a
// daily budget. Other roots must still get room, and what is forgotten is counted.
func TestAlmostUnusedBudgetsMakeRoom(t *testing.T) {
	const maxKeys, others = 5000, 2500
	n := newNode(t, limiter.Options{MaxKeys: maxKeys, MaxKeysPerRoot: maxKeys})
	set := mustSet(t, n.catalog, dailyTokens(100_000))
	var d limiter.Decision
	for i := range 2 * maxKeys {
		if err := n.Check(noon, under("flooder", i, set, 1), &d); err != nil || d.Outcome != limiter.Allowed {
			t.Fatalf("call %d of the flooder = %s (%s), %v, want allowed", i, d.Outcome, d.Reason, err)
		}
	}
	for i := range others {
		wantOutcome(t, "another root", n.check(noon, under("root-"+strconv.Itoa(i), 0, set, 500)), limiter.Allowed)
	}
	for i := range others {
		wantUsed(t, "another root", n.peek(noon, under("root-"+strconv.Itoa(i), 0, set, 0)), 0, 500)
	}
	s := n.Stats()
	if s.TableFull != 0 || s.Keys > maxKeys {
		t.Errorf("%d denials and %d keys, want 0 and at most %d", s.TableFull, s.Keys, maxKeys)
	}
	if evicted := s.Evicted[limiter.EvictAlmostUnused]; evicted < maxKeys || s.BudgetEvicted[limiter.Tokens] != evicted {
		t.Errorf("evicted %d almost unused keys with %v, want more than %d with a token each", evicted, s.BudgetEvicted, maxKeys)
	}
}

// TestLastResortSparesWhatIsUsed checks that no flood evicts a denied key, a live
// reservation, or a budget of which 1 % is used, and that of an almost unused one at most
// what was used is admitted again.
func TestLastResortSparesWhatIsUsed(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeys: 64, MaxKeysPerRoot: 32})
	set := mustSet(t, n.catalog, dailyTokens(1000))
	n.check(noon, under("acme", -1, set, 10)) // 1 %
	n.check(noon, under("acme", -2, set, 5))
	wantOutcome(t, "too much", n.check(noon, under("acme", -2, set, 996)), limiter.Denied)
	held := under("acme", -3, set, 5)
	held.ID = "held"
	n.reserve(noon, held)
	n.check(noon, under("acme", -4, set, 9))
	for i := range 1000 {
		wantOutcome(t, "a new key", n.check(noon, under("acme", i, set, 1)), limiter.Allowed)
	}
	for key, want := range map[int]int64{-1: 10, -2: 5, -3: 5, -4: 9} { // that of -4 is the largest that may go
		wantUsed(t, "spared", n.peek(noon, under("acme", key, set, 0)), 0, want)
	}
	for i := range 40 {
		n.check(noon, under("acme", 2000+i, set, 9))
	}
	for i := range 40 {
		n.check(noon, under("acme", 3000+i, set, 10))
	}
	wantUsed(t, "-4", n.peek(noon, under("acme", -4, set, 0)), 0, 0)
	wantUsed(t, "-1", n.peek(noon, under("acme", -1, set, 0)), 0, 10)
}

// TestNoRootTakesAll checks that roots whose keys cannot be evicted leave room for roots
// with fewer keys.
func TestNoRootTakesAll(t *testing.T) {
	const maxKeys = 2000
	n := newNode(t, limiter.Options{MaxKeys: maxKeys, MaxKeysPerRoot: maxKeys})
	set := mustSet(t, n.catalog, dailyTokens(100))
	denied := map[string]int{}
	for i := range maxKeys {
		for _, root := range []string{"one", "two", "three"} {
			if n.check(noon, under(root, i, set, 50)).Outcome == limiter.Denied {
				denied[root]++
			}
		}
	}
	for _, root := range []string{"one", "two", "three"} {
		if got := maxKeys - denied[root]; got < maxKeys/4 || got > maxKeys/3 {
			t.Errorf("root %s has %d keys, want between %d and %d", root, got, maxKeys/4, maxKeys/3)
		}
	}
	for i := range 100 {
		wantOutcome(t, "a root with fewer keys", n.check(noon, under("victim", i, set, 50)), limiter.Allowed)
	}
	for i := range 50 {
		wantOutcome(t, "a new root", n.check(noon, under("new-"+strconv.Itoa(i), 0, set, 50)), limiter.Allowed)
	}
}

// TestTheRootWithTheMostGivesFirst fills a table with keys of two roots that may be
// evicted. New keys must reset no key of the smaller root.
func TestTheRootWithTheMostGivesFirst(t *testing.T) {
	const maxKeys, few = 2000, 200
	n := newNode(t, limiter.Options{MaxKeys: maxKeys, MaxKeysPerRoot: maxKeys})
	tokens := mustSet(t, n.catalog, bucketOf(600, 1000))
	for i := range few {
		n.check(noon, under("victim", i, tokens, 10)) // a smaller share than the flooder's
	}
	for i := range 3 * maxKeys {
		wantOutcome(t, "the flooder", n.check(noon, under("flooder", i, tokens, 500)), limiter.Allowed)
	}
	for i := range maxKeys / 2 {
		wantOutcome(t, "a new root", n.check(noon, under("new-"+strconv.Itoa(i/3), i, tokens, 500)), limiter.Allowed)
	}
	for i := range few {
		wantUsed(t, "the victim", n.peek(noon, under("victim", i, tokens, 0)), 0, 10)
	}
}

// TestSweepKeepsAReserve checks that the sweep makes room before it is needed, at the
// cost of the root with the most keys.
func TestSweepKeepsAReserve(t *testing.T) {
	const maxKeys = 2000
	n := newNode(t, limiter.Options{MaxKeys: maxKeys, MaxKeysPerRoot: maxKeys})
	tokens := mustSet(t, n.catalog, bucketOf(600, 1000))
	for i := range maxKeys {
		n.check(noon, under("flooder", i, tokens, 500))
	}
	for i := 0; n.Stats().Keys < maxKeys; i++ {
		n.check(noon, under("root-"+strconv.Itoa(i), 0, tokens, 500))
	}
	for range 10 {
		n.Sweep(noon, 1)
	}
	if keys := n.Stats().Keys; keys > maxKeys-maxKeys/64 || keys < maxKeys*9/10 {
		t.Errorf("%d of %d keys after sweeps, want 1/64 free and not much more", keys, maxKeys)
	}
}

// TestTableFullSaysWhen checks that retry_after of table_full is when a key can go: not
// earlier, and at that time the call is admitted.
func TestTableFullSaysWhen(t *testing.T) {
	daily, minute := dailyTokens(100), bucketOf(600, 1000)
	for name, tt := range map[string]struct {
		fill func(n *node, i int)
		want time.Duration
	}{
		"budgets of a day": {func(n *node, i int) { n.check(noon, under("acme", i, mustSet(t, n.catalog, daily), 50)) }, 12 * time.Hour},
		"denied keys": {func(n *node, i int) {
			set := mustSet(t, n.catalog, minute)
			n.check(noon, under("acme", i, set, 500+int64(i)))
			n.check(noon, under("acme", i, set, 999))
		}, 50 * time.Second}, // 500 at 10 a second
		"both": {func(n *node, i int) {
			set := mustSet(t, n.catalog, minute)
			if i%2 == 1 {
				set = mustSet(t, n.catalog, daily)
			}
			n.check(noon, under("acme", i, set, 80))
			n.check(noon, under("acme", i, set, 999))
		}, 8 * time.Second},
	} {
		n := newNode(t, limiter.Options{MaxKeysPerRoot: 20})
		for i := range 20 {
			tt.fill(n, i)
		}
		r := under("acme", 100, mustSet(t, n.catalog, daily), 1)
		d := n.check(noon, r)
		if d.Reason != limiter.TableFull || d.RetryAfter != tt.want {
			t.Errorf("%s: %s (%s), retry_after %s, want table_full and %s", name, d.Outcome, d.Reason, d.RetryAfter, tt.want)
		}
		if d := n.check(noon.Add(tt.want-1), r); d.Reason != limiter.TableFull || d.RetryAfter != 1 {
			t.Errorf("%s, just before: %s (%s), retry_after %s, want table_full and 1ns", name, d.Outcome, d.Reason, d.RetryAfter)
		}
		wantOutcome(t, name+", at that time", n.check(noon.Add(tt.want), r), limiter.Allowed)
	}
}

// TestAlmostUnusedCountersMakeRoom is TestAlmostUnusedBudgetsMakeRoom for counters, also
// after a restart.
func TestAlmostUnusedCountersMakeRoom(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeysPerRoot: 100})
	day := limiter.Window{Unit: limiter.UnitDay}
	n.count(noon, limiter.CountRequest{Key: "acme/used", Window: day, Limit: 100, Hits: 1})
	for i := range 99 {
		n.count(noon, limiter.CountRequest{Key: "acme/" + strconv.Itoa(i), Window: day, Limit: 1000, Hits: 9})
	}
	part := limiter.PartitionOf("acme")
	if err := n.Restore(noon, part, n.Snapshot(noon, part, nil), nil); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		if d := n.count(noon, limiter.CountRequest{Key: "acme/new" + strconv.Itoa(i), Window: day, Limit: 1000, Hits: 9}); d.Full {
			t.Fatalf("counter %d = %+v, want room for it", i, d)
		}
	}
	if d := n.count(noon, limiter.CountRequest{Key: "acme/used", Window: day, Limit: 100}); d.Used != 1 {
		t.Errorf("a counter of which 1 %% was used = %+v, want 1 used", d)
	}
	if s := n.Stats(); s.Evicted[limiter.EvictAlmostUnused] != 500 || s.BudgetEvicted["hits"] != 500*9 {
		t.Errorf("evicted %v with %v, want 500 almost unused with 4500 hits", s.Evicted, s.BudgetEvicted)
	}
}
