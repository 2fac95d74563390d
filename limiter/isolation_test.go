// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// floodIDs are the ids of the engines in this file, and victims the roots that must not
// notice a flood.
const (
	floodIDs = 1 << 15
	victims  = 1000
)

// isolated is an engine with victims, each with a reservation, an ended one and a check
// under way.
type isolated struct {
	*node
	limits *limiter.LimitSet
}

func newIsolated(t *testing.T) *isolated {
	n := newNode(t, limiter.Options{MaxIDs: floodIDs})
	return &isolated{n, mustSet(t, n.catalog,
		limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1e9, Window: time.Minute},
		limiter.Limit{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Calendar: limiter.Day, Amount: 1e9})}
}

func (n *isolated) request(root, id string) *limiter.Request {
	return &limiter.Request{Key: root, ID: id, Requests: 1, InputTokens: 5, OutputTokens: 5, TTL: time.Hour, Plan: plan(root, n.limits)}
}

func victim(i int) string { return "victim-" + strconv.Itoa(i) }

// callAll makes a call of every kind for every victim, and fails if one is denied.
func (n *isolated) callAll(now limiter.Time, id string) {
	n.t.Helper()
	for i := range victims {
		root := victim(i)
		for _, kind := range []string{"held-", "settled-"} {
			d := n.reserve(now, n.request(root, kind+id))
			if d.Outcome != limiter.Allowed || d.Replayed {
				n.t.Fatalf("Reserve(%s) of %s = %s (%s), replayed %t, want a new reservation", kind+id, root, d.Outcome, d.Reason, d.Replayed)
			}
		}
		n.settle(now, limiter.Usage{Key: root, ID: "settled-" + id, InputTokens: 1, OutputTokens: 1, Final: true})
		wantOutcome(n.t, "Check of "+root, n.check(now, n.request(root, "checked-"+id)), limiter.Allowed)
	}
}

// wantRemembered fails unless the calls of callAll are remembered.
func (n *isolated) wantRemembered(now limiter.Time, id string) {
	n.t.Helper()
	for i := range victims {
		root := victim(i)
		for _, kind := range []string{"held-", "settled-"} {
			if d := n.reserve(now, n.request(root, kind+id)); !d.Replayed {
				n.t.Fatalf("%s%s of %s was forgotten", kind, id, root)
			}
		}
		if d := n.check(now, n.request(root, "checked-"+id)); !d.Replayed {
			n.t.Fatalf("checked-%s of %s was forgotten", id, root)
		}
	}
}

// floods fill the memory of ids from one root.
var floods = []struct {
	name string
	call func(n *isolated, now limiter.Time, id string)
}{
	{"settled reserves", func(n *isolated, now limiter.Time, id string) {
		n.reserve(now, n.request("flood", id))
		n.settle(now, limiter.Usage{Key: "flood", ID: id, InputTokens: 1, Final: true})
	}},
	{"cancelled reserves", func(n *isolated, now limiter.Time, id string) {
		n.reserve(now, n.request("flood", id))
		n.cancel(now, "flood", id)
	}},
	{"checks", func(n *isolated, now limiter.Time, id string) { n.check(now, n.request("flood", id)) }},
	{"forced checks", func(n *isolated, now limiter.Time, id string) {
		r := n.request("flood", id)
		r.Force = true
		n.check(now, r)
	}},
	{"counts", func(n *isolated, now limiter.Time, id string) {
		n.count(now, limiter.CountRequest{Key: "flood", ID: id, Hits: 1, Limit: 1e9, Window: limiter.Window{Unit: limiter.UnitDay}})
	}},
	{"withdrawals", func(n *isolated, now limiter.Time, id string) {
		attempt, _ := strconv.ParseUint(id, 10, 64)
		_, _ = n.Withdraw(now, "flood", id, attempt+1)
	}},
	{"live reserves", func(n *isolated, now limiter.Time, id string) {
		if d := n.reserve(now, n.request("flood", id)); d.Outcome != limiter.Allowed && d.Reason != limiter.IDsFull {
			n.t.Fatalf("Reserve = denied (%s), want %s", d.Reason, limiter.IDsFull)
		}
	}},
}

// TestFloodOfIDs checks that a root which makes as many calls as the node remembers ids
// takes none from other roots: not a single one of theirs is denied or forgotten.
func TestFloodOfIDs(t *testing.T) {
	for _, flood := range floods {
		t.Run(flood.name, func(t *testing.T) {
			n := newIsolated(t)
			n.callAll(noon, "before")
			for i := range floodIDs {
				flood.call(n, noon, strconv.Itoa(i))
			}
			n.callAll(noon, "after")
			for i := range floodIDs / 4 { // it goes on
				flood.call(n, noon, strconv.Itoa(floodIDs+i))
			}
			n.callAll(noon, "later")
			for _, id := range []string{"before", "after", "later"} {
				n.wantRemembered(noon.Add(time.Second), id)
			}
			if s := n.Stats(); s.IDs > floodIDs {
				t.Errorf("%d ids are remembered, want at most %d", s.IDs, floodIDs)
			}
		})
	}
}

// TestLargestRootGivesFirst checks that what an idle root holds is given to others until
// they have as many.
func TestLargestRootGivesFirst(t *testing.T) {
	n := newIsolated(t)
	for i := range floodIDs {
		floods[0].call(n, noon, strconv.Itoa(i))
	}
	const rounds = floodIDs / 2 / (3 * victims) // of three ids
	for i := range rounds {
		n.callAll(noon, strconv.Itoa(i))
	}
	for i := range rounds {
		n.wantRemembered(noon, strconv.Itoa(i))
	}
	if s := n.Stats(); s.IDs > floodIDs || s.Forgotten < 3*rounds*victims-floodIDs/4 {
		t.Errorf("%d ids, %d forgotten, want at most %d and at least %d", s.IDs, s.Forgotten, floodIDs, 3*rounds*victims-floodIDs/4)
	}
}

// TestFloodIsForgottenOnTime checks that the ids of a flood are all gone a moment after
// their retention, by the sweep alone and also by the calls of another root in the same
// partition.
func TestFloodIsForgottenOnTime(t *testing.T) {
	for _, flood := range floods {
		retention := 30 * time.Second
		switch flood.name {
		case "settled reserves", "forced checks":
			retention = 10 * time.Minute
		case "live reserves":
			continue
		}
		t.Run(flood.name, func(t *testing.T) {
			n := newIsolated(t)
			for i := range floodIDs {
				flood.call(n, noon, strconv.Itoa(i))
			}
			if s := n.Stats(); s.IDs < floodIDs/2 {
				t.Fatalf("%d ids are remembered, want at least %d", s.IDs, floodIDs/2)
			}
			n.Sweep(noon.Add(retention-time.Millisecond), 2*limiter.Partitions)
			if s := n.Stats(); s.IDs < floodIDs/2 {
				t.Fatalf("%d ids are remembered before their time, want at least %d", s.IDs, floodIDs/2)
			}
			n.Sweep(noon.Add(retention+time.Second), 2*limiter.Partitions)
			if s := n.Stats(); s.IDs != 0 {
				t.Errorf("%d ids are remembered a second after their time, want none", s.IDs)
			}
		})
	}
}

// TestIDsFull checks the one denial for lack of ids: of a root whose live reservations
// have its share.
func TestIDsFull(t *testing.T) {
	n := newIsolated(t)
	full := 0
	for i := range floodIDs {
		if d := n.reserve(noon, n.request("flood", strconv.Itoa(i))); d.Outcome == limiter.Denied {
			if d.Reason != limiter.IDsFull || d.RetryAfter != time.Second || d.Binding != -1 {
				t.Fatalf("Reserve = denied (%s), retry after %s, want ids_full and 1s", d.Reason, d.RetryAfter)
			}
			full++
		}
	}
	if want := floodIDs - (floodIDs-floodIDs/64)*3/4; full != want || n.Stats().IDsFull != int64(want) {
		t.Errorf("%d reserves are denied, %d counted, want %d", full, n.Stats().IDsFull, want)
	}
	r := n.request("flood", "more")
	wantUsed(t, "a denied reserve", n.peek(noon, r), 0, (floodIDs-floodIDs/64)*3/4)
	wantOutcome(t, "a check that is not remembered", n.check(noon, r), limiter.Allowed)
	n.settle(noon, limiter.Usage{Key: "flood", ID: "0", Final: true})
	wantOutcome(t, "a reserve after a settle", n.reserve(noon, n.request("flood", "again")), limiter.Allowed)
	if d := n.reserve(noon, n.request("flood", "again")); !d.Replayed {
		t.Error("the reserve again: replayed = false, want true")
	}
}

// TestRootsOfOnePartition checks the shares of roots that share a partition and its lock.
func TestRootsOfOnePartition(t *testing.T) {
	var roots []string
	for i := 0; len(roots) < 3; i++ {
		if root := fmt.Sprint("root-", i); limiter.PartitionOf(root) == limiter.PartitionOf("flood") {
			roots = append(roots, root)
		}
	}
	for _, flood := range floods {
		n := newIsolated(t)
		for i := range floodIDs {
			flood.call(n, noon, strconv.Itoa(i))
		}
		for _, root := range roots {
			wantOutcome(t, "Reserve of "+root, n.reserve(noon, n.request(root, flood.name)), limiter.Allowed)
		}
		for i := range floodIDs / 8 {
			flood.call(n, noon, strconv.Itoa(floodIDs+i))
		}
		for _, root := range roots {
			if d := n.reserve(noon, n.request(root, flood.name)); !d.Replayed {
				t.Errorf("the id of %s was forgotten after %s", root, flood.name)
			}
		}
	}
}
