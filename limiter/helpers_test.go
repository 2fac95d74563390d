// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bucketring/bucketring/internal/oracle"
	"github.com/bucketring/bucketring/limiter"
)

// TestMain keeps rapid from writing a file for every failure. The printed seed is
// enough.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("rapid.nofailfile", "true")
	os.Exit(m.Run())
}

// noon is 2026-03-04 12:00:00 UTC, a Wednesday.
var noon = limiter.Time{Mono: 1e9, Wall: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixNano()}

// wallAt returns noon's monotonic time with another wall time.
func wallAt(t time.Time) limiter.Time { return limiter.Time{Mono: noon.Mono, Wall: t.UnixNano()} }

func mustSet(t testing.TB, c *limiter.Catalog, limits ...limiter.Limit) *limiter.LimitSet {
	t.Helper()
	set, err := c.LimitSet(limits)
	if err != nil {
		t.Fatalf("LimitSet(%v) = %v", limits, err)
	}
	return set
}

// plan applies sets to the levels of a key, from the root down; nil skips a level.
func plan(key string, sets ...*limiter.LimitSet) *limiter.Plan {
	p := &limiter.Plan{Tier: "t", Rates: limiter.Rates{Priced: true, InputPrice: 1e6, CachedInputPrice: 5e5, OutputPrice: 2e6, Weights: limiter.DefaultWeights}}
	end := 0
	for _, set := range sets {
		if i := strings.IndexByte(key[min(end+1, len(key)):], '/'); i >= 0 {
			end += i + 1
		} else {
			end = len(key)
		}
		if set != nil {
			p.Levels[p.Count] = limiter.Level{End: end, Tier: "t", Limits: set}
			p.Count++
		}
	}
	return p
}

// node is an engine with calls that fail the test on an error.
type node struct {
	*limiter.Engine
	t       testing.TB
	catalog *limiter.Catalog
	reader  *limiter.StateReader // of all messages; nil: none yet
}

func newNode(t testing.TB, o limiter.Options) *node {
	o.Catalog = limiter.NewCatalog()
	return &node{Engine: limiter.New(o), t: t, catalog: o.Catalog}
}

func (n *node) plan(key string, limits ...limiter.Limit) *limiter.Plan {
	n.t.Helper()
	return plan(key, mustSet(n.t, n.catalog, limits...))
}

func (n *node) check(now limiter.Time, r *limiter.Request) limiter.Decision {
	n.t.Helper()
	var d limiter.Decision
	if err := n.Check(now, r, &d); err != nil {
		n.t.Fatalf("Check(%s) = %v, want a decision", r.Key, err)
	}
	return d
}

func (n *node) reserve(now limiter.Time, r *limiter.Request) limiter.Decision {
	n.t.Helper()
	var d limiter.Decision
	if err := n.Reserve(now, r, &d); err != nil {
		n.t.Fatalf("Reserve(%s) = %v, want a decision", r.ID, err)
	}
	return d
}

func (n *node) settle(now limiter.Time, u limiter.Usage) limiter.Decision {
	n.t.Helper()
	var d limiter.Decision
	if err := n.Settle(now, &u, &d); err != nil {
		n.t.Fatalf("Settle(%s) = %v, want an answer", u.ID, err)
	}
	return d
}

func (n *node) cancel(now limiter.Time, key, id string) limiter.Decision {
	n.t.Helper()
	var d limiter.Decision
	if err := n.Cancel(now, key, id, &d); err != nil {
		n.t.Fatalf("Cancel(%s) = %v, want an answer", id, err)
	}
	return d
}

func (n *node) peek(now limiter.Time, r *limiter.Request) limiter.Decision {
	n.t.Helper()
	var d limiter.Decision
	n.Peek(now, r, &d)
	return d
}

// used returns the usage of a limit, including debt.
func used(s limiter.LimitState) int64 { return s.Capacity - s.Remaining + s.Debt }

// wantOutcome fails unless d has that outcome.
func wantOutcome(t testing.TB, call string, d limiter.Decision, want limiter.Outcome) {
	t.Helper()
	if d.Outcome != want {
		t.Fatalf("%s = %s (%s), want %s", call, d.Outcome, d.Reason, want)
	}
}

// wantUsed fails unless limit i of d has n used.
func wantUsed(t testing.TB, call string, d limiter.Decision, i int, n int64) {
	t.Helper()
	if got := used(d.Limits[i]); got != n {
		t.Fatalf("%s: %s of %s used = %d, want %d", call, d.Limits[i].Name, d.Limits[i].Scope, got, n)
	}
}

// sameDecision fails if two decisions differ.
func sameDecision(t interface {
	Helper()
	Fatalf(string, ...any)
}, call string, got, want limiter.Decision,
) {
	t.Helper()
	if diff := cmp.Diff(tidy(want), tidy(got), cmpopts.IgnoreUnexported(limiter.Decision{})); diff != "" {
		t.Fatalf("%s differs (-want +got):\n%s", call, diff)
	}
}

// wantReplay fails unless got repeats the decision first, with the limits as they are now.
func wantReplay(t testing.TB, call string, got, first, now limiter.Decision) {
	t.Helper()
	want := first
	want.Replayed, want.Binding = true, got.Binding
	want.Limits = append([]limiter.LimitState(nil), now.Limits...)
	for i := range want.Limits {
		want.Limits[i].Cost = first.Limits[i].Cost
	}
	sameDecision(t, call, got, want)
}

// tidy makes every negative RetryAfter the same.
func tidy(d limiter.Decision) limiter.Decision {
	if d.RetryAfter < 0 {
		d.RetryAfter = -1
	}
	d.Change, d.Large = 0, false // the oracle has none
	if len(d.Limits) == 0 {
		d.Limits = nil
	}
	d.Limits = slices.Clone(d.Limits)
	for i := range d.Limits {
		d.Limits[i].Definition = 0 // nor these
	}
	return d
}

// pair drives an engine and the oracle with the same calls.
type pair struct {
	*limiter.Engine
	catalog *limiter.Catalog
	model   *oracle.Oracle
}

func newPair() *pair {
	c := limiter.NewCatalog()
	return &pair{limiter.New(limiter.Options{Catalog: c}), c, oracle.New()}
}
