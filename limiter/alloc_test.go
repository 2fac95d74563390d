// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// cut cuts the list of changes of acme, and returns the number of the last change.
func (n *node) cut(now limiter.Time) uint64 {
	seq := n.Seq(limiter.PartitionOf("acme"))
	if seq > 0 {
		var w limiter.StateWriter
		_, _ = n.AppendChanges(now, limiter.PartitionOf("acme"), seq-1, &w)
	}
	return seq
}

// TestNoAllocations checks that calls for existing keys do not allocate, with and without
// ids, on one level and on two, and also while changes are listed.
func TestNoAllocations(t *testing.T) {
	limits := append(tokenLimits(), limiter.Limit{Name: "images", Dimension: "images", Algorithm: limiter.TokenBucket, Amount: 1e9, Window: time.Minute})
	for i := range limits {
		limits[i].Amount, limits[i].Burst = 1e12, 0
	}
	for name, levels := range map[string]int{"one level": 1, "two levels": 2, "two levels, tracked": 2, "two levels, with a ledger, tracked": 2} {
		o := limiter.Options{MaxIDs: 256}
		if strings.Contains(name, "ledger") {
			o.Ledger = noBooks{}
		}
		n := newNode(t, o)
		isTracked := strings.HasSuffix(name, "tracked")
		n.Track(limiter.PartitionOf("acme"), isTracked)
		sets := []*limiter.LimitSet{mustSet(t, n.catalog, limits...), mustSet(t, n.catalog, limits[:4]...)}
		p := plan("acme/alice", sets[2-levels:]...)
		if levels == 1 {
			p = plan("acme", sets[1])
		}
		key := "acme/alice"[:p.Levels[p.Count-1].End]
		now := noon
		ids := make([]string, 1024)
		for i := range ids {
			ids[i] = "request-" + strconv.Itoa(i)
		}
		next := 0
		id := func() string { // each is used once within its retention
			next++
			now = now.Add(11 * time.Minute)
			return ids[next%len(ids)]
		}
		r := &limiter.Request{
			Key: key, Plan: p, Requests: 1, InputTokens: 100, OutputTokens: 50,
			Costs: []limiter.Cost{{Dimension: "images", Amount: 1}}, ServiceTier: "priority",
		}
		p.Rates = prices(t)
		u := &limiter.Usage{
			Key: key, InputTokens: 90, CachedInputTokens: 10, CacheWriteTokens: 20, OutputTokens: 70, Costs: r.Costs, Images: 1, ServiceTier: "flex",
		}
		var d limiter.Decision
		q := &limiter.CountRequest{Key: key, Window: limiter.Window{Unit: limiter.UnitMonth, Multiple: 12}, Limit: 5}
		var c limiter.CountResult
		counted := func(call string, err error) {
			if err != nil || c.Full {
				t.Fatalf("%s = %+v, %v, want a result", call, c, err)
			}
		}
		ok := func(call string, err error, want limiter.Outcome) {
			if err != nil || d.Outcome != want {
				t.Fatalf("%s, %s = %s, %v, want %s", call, name, d.Outcome, err, want)
			}
		}
		for _, c := range []struct {
			call string
			f    func()
		}{
			{"Check", func() {
				r.ID = ""
				now = now.Add(time.Millisecond)
				ok("Check", n.Check(now, r, &d), limiter.Allowed)
			}},
			{"Check with an id", func() {
				r.ID = id()
				ok("Check", n.Check(now, r, &d), limiter.Allowed)
			}},
			{"Check that is denied", func() {
				r.ID, r.InputTokens = "", 1e13
				ok("Check", n.Check(now, r, &d), limiter.Denied)
				r.InputTokens = 100
			}},
			{"Reserve and Settle", func() {
				r.ID = id()
				u.ID, u.Final = r.ID, true
				ok("Reserve", n.Reserve(now, r, &d), limiter.Allowed)
				ok("Settle", n.Settle(now.Add(time.Second), u, &d), limiter.Allowed)
			}},
			{"Reserve, progress and expiry", func() {
				r.ID = id() // 11 minutes later: ends what ran before
				u.ID, u.Final = r.ID, false
				ok("Reserve", n.Reserve(now, r, &d), limiter.Allowed)
				ok("Settle", n.Settle(now.Add(time.Second), u, &d), limiter.Allowed)
			}},
			{"Reserve and Cancel", func() {
				r.ID = id()
				ok("Reserve", n.Reserve(now, r, &d), limiter.Allowed)
				ok("Cancel", n.Cancel(now.Add(time.Second), key, r.ID, &d), limiter.Allowed)
			}},
			{"Reserve again", func() { ok("Reserve", n.Reserve(now, r, &d), limiter.Allowed) }},
			{"Reserve and Withdraw", func() {
				r.ID, r.Attempt = id(), r.Attempt+1
				ok("Reserve", n.Reserve(now, r, &d), limiter.Allowed)
				_, _ = n.Withdraw(now, key, r.ID, r.Attempt)
				if err := n.Reserve(now, r, &d); !errors.Is(err, limiter.ErrWithdrawn) {
					t.Fatalf("Reserve() after its withdrawal = %v, want %v", err, limiter.ErrWithdrawn)
				}
			}},
			{"Reserve, expiry and Withdraw", func() {
				r.ID, r.Attempt = id(), r.Attempt+1
				ok("Reserve", n.Reserve(now, r, &d), limiter.Allowed)
				now = now.Add(31 * time.Second)
				_, _ = n.Withdraw(now, key, r.ID, r.Attempt)
			}},
			{"Peek", func() {
				n.Peek(now, r, &d)
				ok("Peek", nil, limiter.Allowed)
			}},
			{"Count", func() {
				q.ID, q.Hits = "", 1
				now = now.Add(time.Millisecond)
				counted("Count", n.Count(now, q, &c))
			}},
			{"Count with an id, and back", func() {
				q.ID, q.GiveBack = id(), true
				counted("Count", n.Count(now, q, &c))
				q.GiveBack = false
			}},
			{"a look", func() {
				q.ID, q.Hits = "", 0
				counted("Count", n.Count(now, q, &c))
			}},
			{"Check that is forced", func() {
				r.ID, r.InputTokens, r.Force = "", 1e13, true // above every limit
				ok("Check", n.Check(now, r, &d), limiter.Allowed)
				r.InputTokens, r.Force = 100, false
			}},
			{"Reserve that is forced, and Settle", func() {
				r.ID, r.InputTokens, r.Force = id(), 1e13, true
				u.ID, u.Final = r.ID, true
				ok("Reserve", n.Reserve(now, r, &d), limiter.Allowed)
				ok("Settle", n.Settle(now.Add(time.Second), u, &d), limiter.Allowed)
				r.InputTokens, r.Force = 100, false
			}},
		} {
			if c.call == "Reserve again" { // the reservation is still held
				r.ID = id()
				ok("Reserve", n.Reserve(now, r, &d), limiter.Allowed)
			}
			for range 300 {
				c.f() // grow the tables
			}
			n.ForgetChanges(limiter.PartitionOf("acme"), n.cut(now))
			for range 300 {
				c.f() // grow the list of changes
			}
			n.ForgetChanges(limiter.PartitionOf("acme"), n.cut(now))
			if allocs := testing.AllocsPerRun(200, c.f); allocs != 0 {
				t.Errorf("%s, %s: %v allocations, want 0", c.call, name, allocs)
			}
		}
	}
}
