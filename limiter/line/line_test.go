// SPDX-License-Identifier: Apache-2.0

package line_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
)

// org returns a world with users below one limit on tokens.
func org(t fataler, limit limiter.Limit, b line.Bounds, users ...string) *world {
	w := newWorld(t, b)
	for _, u := range users {
		w.plan(u, level{3, []limiter.Limit{limit}})
	}
	return w
}

// TestOneCallIsNotBehindTwoHundred: a user that waits with one call is let through next.
func TestOneCallIsNotBehindTwoHundred(t *testing.T) {
	w := org(t, bucket("tokens", 100, time.Second), line.Bounds{}, "org/a", "org/b")
	w.submit(tokens("org/a", 100))
	for range 200 {
		w.mustWait(tokens("org/a", 10))
	}
	w.mustWait(tokens("org/b", 10))
	w.until(start.Mono + 1e9)
	if got := w.keys()[1:4]; !slices.Contains(got, "org/b") {
		t.Errorf("served %v first, want org/b among them", got)
	}
	w.drain()
	if n := len(w.served); n != 202 {
		t.Errorf("served %d calls, want 202", n)
	}
}

// TestLargeCallIsNotStarved: a large call of the class and key order holds back small ones.
func TestLargeCallIsNotStarved(t *testing.T) {
	w := org(t, bucket("tokens", 100, time.Second), line.Bounds{}, "org/a", "org/b")
	w.submit(tokens("org/a", 100))
	w.mustWait(tokens("org/a", 90))
	w.until(start.Mono + 5e8) // 50 are free
	late := tokens("org/a", 1)
	w.mustWait(late)
	for i := range 20 {
		w.until(start.Mono + 5e8 + int64(i)*1e7)
		w.submit(tokens("org/b", 10))
	}
	w.drain()
	at := slices.IndexFunc(w.served, func(c *call) bool { return c.InputTokens == 90 })
	if at > 12 {
		t.Errorf("the large call is served as number %d, want it among the first: 90 units of others at most go first", at)
	}
	if late.served < w.served[at].served {
		t.Error("a small call of the same key overtook the large one")
	}
}

// TestOwnLimitHoldsUpNobody: who waits at a limit of their own does not hold up others under
// the shared limit.
func TestOwnLimitHoldsUpNobody(t *testing.T) {
	w := newWorld(t, line.Bounds{})
	shared := bucket("tokens", 1000, time.Second)
	w.plan("org/a", level{3, []limiter.Limit{shared}}, level{5, []limiter.Limit{bucket("own", 10, time.Second)}})
	w.plan("org/b", level{3, []limiter.Limit{shared}})
	w.submit(tokens("org/a", 10))
	w.mustWait(tokens("org/a", 10))
	b := tokens("org/b", 500)
	if w.submit(b); b.served == 0 {
		t.Error("org/b waits behind a call that waits at its own limit")
	}
	w.drain()
	if len(w.served) != 3 || w.now.Mono != start.Mono+1e9 {
		t.Errorf("served %d at %d, want all after a second", len(w.served), w.now.Mono)
	}
}

// TestClassesGoFirst: of those who wait, the more urgent class goes first, and a class that was
// not served for the age goes first with one call.
func TestClassesGoFirst(t *testing.T) {
	w := org(t, bucket("tokens", 100, time.Second), line.Bounds{Age: 2 * time.Second}, "org/a", "org/b")
	w.submit(tokens("org/a", 100))
	batch := tokens("org/b", 10)
	batch.class = limiter.Batch
	w.mustWait(batch)
	for range 100 {
		c := tokens("org/a", 10)
		c.class = limiter.Interactive
		w.mustWait(c)
	}
	w.drain()
	if after := batch.served - batch.arrived; after < 2e9 || after > 2e9+2e8 {
		t.Errorf("batch is served after %s, want 2 s and a call", time.Duration(after))
	}
}

// TestAgeIsThatOfTheClass: a class that waits is served after the age, also if calls that go
// before the first come to it again and again.
func TestAgeIsThatOfTheClass(t *testing.T) {
	w := org(t, bucket("tokens", 100, time.Second), line.Bounds{Age: 2 * time.Second}, "org/a", "org/b0", "org/b1", "org/b2", "org/b3")
	w.submit(tokens("org/a", 100))
	for range 200 {
		c := tokens("org/a", 10)
		c.class = limiter.Interactive
		w.mustWait(c)
	}
	var batch []*call
	for i := range 4 {
		c := tokens(fmt.Sprint("org/b", i), int64(50-i))
		c.class = limiter.Batch
		w.mustWait(c)
		batch = append(batch, c)
		w.until(start.Mono + int64(i+1)*18e8)
	}
	w.drain()
	first := int64(math.MaxInt64)
	for _, c := range batch {
		first = min(first, c.served)
	}
	if after := first - batch[0].arrived; after < 2e9 || after > 3e9 {
		t.Errorf("the first batch call is served after %s, want 2 s and a call", time.Duration(after))
	}
}

// TestHeadroomIsForMoreUrgentCalls: a batch call that may not use the headroom holds back no
// interactive call, however long it has waited.
func TestHeadroomIsForMoreUrgentCalls(t *testing.T) {
	limit := bucket("tokens", 100, time.Second)
	limit.Headroom = limiter.Headroom{Batch: 400_000}
	w := org(t, limit, line.Bounds{Age: 100 * time.Millisecond}, "org/a", "org/b")
	w.submit(tokens("org/a", 50))
	batch := tokens("org/b", 20)
	batch.class = limiter.Batch
	w.mustWait(batch)
	for range 50 { // interactive calls use all that refills
		c := tokens("org/a", 10)
		c.class = limiter.Interactive
		if w.submit(c); c.served == 0 {
			t.Fatalf("an interactive call waits at %d although %d are left", w.now.Mono, 50)
		}
		w.until(w.now.Mono + 1e8)
	}
	if batch.served != 0 {
		t.Error("the batch call used the headroom")
	}
	w.drain()
	if batch.served == 0 {
		t.Error("the batch call was not served when its headroom was free")
	}
}

func TestRefusals(t *testing.T) {
	limit := queued(bucket("tokens", 100, time.Second), 2*time.Second, 6)
	w := org(t, limit, line.Bounds{Depth: 12, KeyDepth: 3}, "org/a", "org/b", "org/c", "org/d")
	w.plan("org/n", level{3, []limiter.Limit{limit}}, level{5, []limiter.Limit{queued(bucket("own", 10, time.Second), 0, 0)}})
	w.submit(tokens("org/a", 100))
	check := func(what string, c *call, want line.Refusal, retry time.Duration) {
		t.Helper()
		if got := w.submit(c); got != want || want != line.NotRefused && c.estimate != retry {
			t.Errorf("%s: %s with retry %s, want %s with %s", what, got, c.estimate, want, retry)
		}
	}
	check("more than the capacity", tokens("org/a", 101), line.Never, -1)
	check("a limit without a queue", tokens("org/n", 20), line.Never, -1)
	short := tokens("org/a", 50)
	short.maxWait = 499 * time.Millisecond
	check("a short wait", short, line.TooLate, 500*time.Millisecond)
	for range 3 {
		check("waits", tokens("org/a", 10), line.NotRefused, 0)
	}
	check("many of a key", tokens("org/a", 10), line.KeyFull, 400*time.Millisecond)
	check("a long wait", tokens("org/b", 100), line.NotRefused, 0)
	check("too long a wait", tokens("org/b", 80), line.TooLate, 2100*time.Millisecond)
	check("waits", tokens("org/b", 1), line.NotRefused, 0)
	check("as many as places are free", tokens("org/b", 1), line.KeyFull, 1320*time.Millisecond)
	check("the last place", tokens("org/c", 1), line.NotRefused, 0)
	check("a full limit", tokens("org/d", 1), line.LimitFull, 20*time.Millisecond)
	if w.line.Len() != 6 || w.line.Waiting(limiter.Standard) != 6 {
		t.Errorf("%d wait, %d of them standard, want 6", w.line.Len(), w.line.Waiting(limiter.Standard))
	}
	for id := range w.calls {
		w.line.Leave(w.now.Mono, id)
		if w.line.Leave(w.now.Mono, id) {
			t.Error("a call left twice")
		}
	}
	if turn := w.line.Next(w.now.Mono); w.line.Len() != 0 || turn.Kind != line.None {
		t.Errorf("%d wait after all have left, and %v is next", w.line.Len(), turn)
	}
}

// TestFreedWakes: who waits for a slot gets it when another call ends.
func TestFreedWakes(t *testing.T) {
	w := newWorld(t, line.Bounds{})
	slots := queued(limiter.Limit{Name: "concurrent", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 1}, 5*time.Second, 10)
	w.plan("org/a", level{3, []limiter.Limit{slots}})
	reserve := func(id string) *call {
		return &call{Request: limiter.Request{Key: "org/a", ID: id}, reserve: true}
	}
	w.submit(reserve("1"))
	second := reserve("2")
	w.mustWait(second)
	w.until(start.Mono + 5e8)
	var d limiter.Decision
	if err := w.engine.Settle(w.now, &limiter.Usage{Key: "org/a", ID: "1", Final: true}, &d); err != nil {
		t.Fatal(err)
	}
	w.line.Freed(w.now.Mono, d.Limits)
	w.turns()
	if second.served != start.Mono+5e8 {
		t.Errorf("served at %d, want %d", second.served, start.Mono+int64(5e8))
	}
}

// TestAskedAgainKeepsItsPlace: calls that waited at another owner before go in their old order.
func TestAskedAgainKeepsItsPlace(t *testing.T) {
	w := org(t, bucket("tokens", 100, time.Second), line.Bounds{}, "org/a")
	w.submit(tokens("org/a", 100))
	w.until(start.Mono + 1e8)
	for _, i := range []int{3, 1, 2} {
		c := tokens("org/a", 50)
		c.ID = fmt.Sprint(i)
		c.Plan = w.plans[c.Key]
		var d limiter.Decision
		w.ask(c, &d)
		c.arrived = start.Mono + int64(i)
		w.wait(c, &d)
	}
	w.drain()
	for i, c := range w.served[1:] {
		if c.ID != fmt.Sprint(i+1) {
			t.Errorf("number %d is call %s", i+1, c.ID)
		}
	}
}

// TestEachLimit: what waits is told by limit, class and model, with since when.
func TestEachLimit(t *testing.T) {
	w := newWorld(t, line.Bounds{})
	own := queued(limiter.Limit{Name: "own", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 10, Window: time.Minute}, time.Minute, 10)
	plan := w.plan("org/a", level{3, []limiter.Limit{bucket("shared", 100, time.Minute)}}, level{5, []limiter.Limit{own}})
	plan.Levels[1].Model, plan.Levels[1].Limits = plan.Levels[1].Limits, nil
	w.plan("org/b", level{3, []limiter.Limit{bucket("shared", 100, time.Minute)}})
	w.submit(&call{Request: limiter.Request{Key: "org/a", Model: "m", InputTokens: 10}})
	w.submit(tokens("org/b", 90))
	w.until(start.Mono + 1e8)
	w.mustWait(&call{Request: limiter.Request{Key: "org/a", Model: "m", InputTokens: 9}, class: limiter.Batch})
	for _, class := range []limiter.Priority{limiter.Interactive, limiter.Standard, limiter.Standard} {
		w.until(w.now.Mono + 1e8)
		c := tokens("org/b", 30)
		c.class = class
		w.mustWait(c)
	}
	got := map[string]line.AtLimit{}
	w.line.EachLimit(func(at *line.AtLimit) { got[at.Name] = *at })
	want := map[string]line.AtLimit{
		"own":    {Scope: "org/a", Dimension: limiter.Tokens, Name: "own", Model: "m", Calls: [3]int{0, 0, 1}, Since: start.Mono + 1e8},
		"shared": {Scope: "org", Dimension: limiter.Tokens, Name: "shared", Calls: [3]int{1, 2, 0}, Since: start.Mono + 2e8},
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
