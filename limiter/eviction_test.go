// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// flood makes n calls for new keys under a root and returns the outcomes.
func flood(n *node, now limiter.Time, root string, p *limiter.LimitSet, count int, tokens int64) (admitted, full int) {
	var d limiter.Decision
	for i := range count {
		key := root + "/junk-" + strconv.Itoa(i)
		pl := plan(key, nil, p)
		if err := n.Check(now.Add(time.Duration(i)), &limiter.Request{Key: key, Plan: pl, InputTokens: tokens}, &d); err != nil {
			n.t.Fatalf("Check(%s) = %v, want a decision", key, err)
		}
		switch {
		case d.Outcome == limiter.Allowed:
			admitted++
		case d.Reason == limiter.TableFull:
			full++
			if d.RetryAfter <= 0 {
				n.t.Fatalf("Check(%s) = table_full, retry_after %s, want a time to come", key, d.RetryAfter)
			}
		default:
			n.t.Fatalf("Check(%s) = %s (%s), want allowed or table_full", key, d.Outcome, d.Reason)
		}
	}
	return admitted, full
}

// TestFloodResetsNoVictim checks that new keys never evict a denied key, a live
// reservation or a budget in use.
func TestFloodResetsNoVictim(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeys: 64, MaxKeysPerRoot: 32})
	tokens := mustSet(t, n.catalog, bucketOf(600, 1000))
	large := budget(limiter.Day, time.UTC)
	large.Amount = 1e9
	money := mustSet(t, n.catalog, large)
	request := func(key string, set *limiter.LimitSet, n int64) *limiter.Request {
		return &limiter.Request{Key: key, Plan: plan(key, nil, set), InputTokens: n}
	}
	// Each has a smaller share used than the keys of the flood.
	n.check(noon, request("acme/denied", tokens, 20))
	wantOutcome(t, "Check(acme/denied)", n.check(noon, request("acme/denied", tokens, 1000)), limiter.Denied)
	held := request("acme/held", tokens, 30)
	held.ID = "held"
	n.reserve(noon, held)
	n.check(noon, request("acme/spender", money, 1))

	admitted, _ := flood(n, noon.Add(time.Millisecond), "acme", tokens, 5000, 100)
	if admitted < 4000 {
		t.Errorf("admitted %d of 5000 new keys, want most of them", admitted)
	}
	later := noon.Add(time.Second)
	wantUsed(t, "denied", n.peek(later, request("acme/denied", tokens, 0)), 0, 20-10)
	wantUsed(t, "held", n.peek(later, request("acme/held", tokens, 0)), 0, 30-10)
	wantUsed(t, "spender", n.peek(later, request("acme/spender", money, 0)), 0, 1)
	d := n.settle(later, limiter.Usage{Key: "acme/held", ID: "held", InputTokens: 500, OutputTokens: 0, Final: true})
	wantUsed(t, "held, settled", d, 0, 500-10)
	if s := n.Stats(); s.Keys > 32 || s.Evicted[limiter.EvictSmallest] == 0 {
		t.Errorf("Stats: %d keys, %d evicted, want at most 32 and some", s.Keys, s.Evicted[limiter.EvictSmallest])
	}
}

// TestTableFull checks that new keys are denied, and known ones served, when no record
// can be evicted.
func TestTableFull(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeysPerRoot: 20})
	money := mustSet(t, n.catalog, budget(limiter.Day, time.UTC))
	admitted, full := flood(n, noon, "acme", money, 100, 10)
	if admitted != 20 || full != 80 {
		t.Errorf("admitted %d, table_full %d, want 20 and 80", admitted, full)
	}
	known := &limiter.Request{Key: "acme/junk-3", Plan: plan("acme/junk-3", nil, money), InputTokens: 10}
	wantOutcome(t, "a known key", n.check(noon.Add(time.Second), known), limiter.Allowed)
	if got := n.Stats().TableFull; got != 80 {
		t.Errorf("Stats.TableFull = %d, want 80", got)
	}
	other := &limiter.Request{Key: "umbrella/x", Plan: plan("umbrella/x", nil, money), InputTokens: 10}
	wantOutcome(t, "another root", n.check(noon.Add(time.Second), other), limiter.Allowed)

	// A denial for lack of room charges nothing on any level.
	org := mustSet(t, n.catalog, bucketOf(600, 1000))
	n.check(noon, &limiter.Request{Key: "acme", Plan: plan("acme", org), InputTokens: 1})
	r := &limiter.Request{Key: "acme/new", Plan: plan("acme/new", org, money), InputTokens: 50, ID: "r"}
	d := n.reserve(noon, r)
	if d.Outcome != limiter.Denied || d.Reason != limiter.TableFull {
		t.Fatalf("Reserve(acme/new) = %s (%s), want denied (table_full)", d.Outcome, d.Reason)
	}
	wantUsed(t, "the root after table_full", n.peek(noon, r), 0, 1)
	if d := n.reserve(noon.Add(24*time.Hour), r); d.Outcome != limiter.Allowed {
		t.Errorf("Reserve(acme/new) on the next day = %s (%s), want allowed", d.Outcome, d.Reason)
	}
}

// TestIdleKeysAreEvictedFirst checks that unused records are evicted before used ones.
func TestIdleKeysAreEvictedFirst(t *testing.T) {
	n := newNode(t, limiter.Options{MaxKeysPerRoot: 50})
	tokens := mustSet(t, n.catalog, bucketOf(600, 1000))
	busy := &limiter.Request{Key: "acme/busy", Plan: plan("acme/busy", nil, tokens), InputTokens: 900}
	n.check(noon, busy)
	flood(n, noon, "acme", tokens, 49, 10) // full again after a second
	var d limiter.Decision
	later := noon.Add(2 * time.Second)
	for i := range 40 {
		key := "acme/new-" + strconv.Itoa(i)
		if err := n.Check(later, &limiter.Request{Key: key, Plan: plan(key, nil, tokens), InputTokens: 950}, &d); err != nil || d.Outcome != limiter.Allowed {
			t.Fatalf("Check(%s) = %s (%s), %v, want allowed", key, d.Outcome, d.Reason, err)
		}
	}
	if s := n.Stats(); s.Evicted[limiter.EvictLossless] != 40 || s.Evicted[limiter.EvictSmallest] != 0 {
		t.Errorf("evicted = %v, want 40 lossless", s.Evicted)
	}
	wantUsed(t, "busy", n.peek(later, busy), 0, 900-20)
}

// TestSweepRemovesOnlyUnusedRecords compares every key before and after.
func TestSweepRemovesOnlyUnusedRecords(t *testing.T) {
	n := newNode(t, limiter.Options{})
	set := mustSet(t, n.catalog, tokenLimits()...)
	var asks []*limiter.Request
	for i := range 300 {
		key := "root-" + strconv.Itoa(i%40) + "/" + strconv.Itoa(i)
		r := &limiter.Request{Key: key, Plan: plan(key, nil, set), InputTokens: int64(i % 5 * 200), ID: strconv.Itoa(i)}
		r.Requests = int64(i % 2)
		r.Plan.Rates.Priced = i%3 == 0 // else it has no budget
		r.Plan.Rates.InputPrice *= int64(i % 2)
		if i%3 != 0 {
			r.Plan.Levels[0].Limits = mustSet(t, n.catalog, tokenLimits()[:2]...)
		}
		call := n.Check
		if i%7 == 0 {
			call = n.Reserve
		}
		var d limiter.Decision
		if err := call(noon, r, &d); err != nil {
			t.Fatal(err)
		}
		asks = append(asks, r)
	}
	before := n.Stats().Keys
	for _, later := range []time.Duration{0, 5 * time.Second, 20 * time.Second, 2 * time.Minute, 15 * time.Minute, 25 * time.Hour} {
		now := noon.Add(later)
		var was []limiter.Decision
		for _, r := range asks {
			was = append(was, n.peek(now, r))
		}
		for n.Sweep(now, 100_000) > 0 { // until a full round removes nothing
		}
		for i, r := range asks {
			sameDecision(t, "Peek("+r.Key+") after a sweep", n.peek(now, r), was[i])
		}
	}
	s := n.Stats()
	if s.Keys != 0 || s.Reservations != 0 || s.IDs != 0 {
		t.Errorf("a day later: %d keys of %d, %d reservations, %d ids, want none", s.Keys, before, s.Reservations, s.IDs)
	}
}

// TestDeniedKeysCreateNoRecord checks that denied requests create no record.
func TestDeniedKeysCreateNoRecord(t *testing.T) {
	n := newNode(t, limiter.Options{})
	tokens := mustSet(t, n.catalog, bucketOf(600, 1000))
	for i := range 100 {
		key := "acme/" + strconv.Itoa(i)
		r := &limiter.Request{Key: key, Plan: plan(key, nil, tokens), InputTokens: 1001}
		d := n.check(noon, r)
		if d.Reason != limiter.ExceedsCapacity || d.RetryAfter >= 0 {
			t.Fatalf("Check(%s, 1001 of 1000) = %s, retry_after %s, want exceeds_capacity and none", key, d.Reason, d.RetryAfter)
		}
		n.peek(noon, r)
	}
	if s := n.Stats(); s.Keys != 0 || s.IDs != 0 {
		t.Errorf("Stats = %d keys, %d ids, want none", s.Keys, s.IDs)
	}
}

// TestEvictionSparesTheCurrentKey checks a request that creates the record of its root
// and must not evict the record of its own key, which it has already assessed.
func TestEvictionSparesTheCurrentKey(t *testing.T) {
	for _, a := range []limiter.Algorithm{limiter.TokenBucket, limiter.FixedWindow} {
		n := newNode(t, limiter.Options{MaxKeys: 2})
		last := limiter.Limit{Name: "last", Dimension: limiter.Tokens, Algorithm: a, Amount: 1000, Window: time.Minute}
		var many []limiter.Limit // of another tier; the record of alice keeps them
		for i := range 9 {
			l := bucketOf(600, 1000)
			l.Name = strconv.Itoa(i)
			many = append(many, l)
		}
		wide, narrow, org := mustSet(t, n.catalog, append(many, last)...), mustSet(t, n.catalog, last), mustSet(t, n.catalog, bucketOf(6000, 6000))
		n.check(noon, &limiter.Request{Key: "acme/alice", Plan: plan("acme/alice", nil, wide), InputTokens: 1})
		n.check(noon, &limiter.Request{Key: "acme/bob", Plan: plan("acme/bob", nil, wide), InputTokens: 500})

		r := &limiter.Request{Key: "acme/alice", Plan: plan("acme/alice", org, narrow), InputTokens: 700}
		d := n.check(noon, r)
		wantOutcome(t, "Check(acme/alice)", d, limiter.Allowed)
		wantUsed(t, "Check(acme/alice), "+a.String(), d, 0, 700)
		wantUsed(t, "Check(acme/alice), "+a.String(), d, 1, 701)
		d = n.check(noon, r)
		wantOutcome(t, "Check(acme/alice) again", d, limiter.Denied)
		wantUsed(t, "Check(acme/alice) again, "+a.String(), d, 1, 701)
	}
}
