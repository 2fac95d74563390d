// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// fixed is what states with the same [limiter.LimitState.Definition] have in common.
func fixed(s limiter.LimitState) limiter.LimitState {
	f := limiter.LimitState{
		Name: s.Name, Dimension: s.Dimension, Algorithm: s.Algorithm, Definition: s.Definition,
		Limit: s.Limit, Capacity: s.Capacity, Shadow: s.Shadow, Hidden: s.Hidden, Queue: s.Queue,
	}
	if s.Name != "calendar" {
		f.Window = s.Window
	}
	return f
}

// States with the same definition have the same fields, in whatever call and class they are
// reported, and those of a limit that was changed have another one, which it gets back when
// the change is taken back.
func TestDefinitionOfStates(t *testing.T) {
	n, seen := newNode(t, limiter.Options{}), map[uint32]limiter.LimitState{}
	now := limiter.Time{Mono: 1, Wall: 1_772_000_000e9}
	note := func(call string, d limiter.Decision) (definitions []uint32) {
		t.Helper()
		if len(d.Limits) == 0 {
			t.Fatalf("%s reports no limits", call)
		}
		for _, s := range d.Limits {
			if before, known := seen[s.Definition]; s.Definition == 0 || known && before != fixed(s) {
				t.Fatalf("%s: definition %d is of %+v, and of %+v before", call, s.Definition, fixed(s), before)
			}
			seen[s.Definition] = fixed(s)
			definitions = append(definitions, s.Definition)
		}
		return definitions
	}
	base := limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 1000, Window: time.Minute}
	changes := []func(*limiter.Limit){
		func(*limiter.Limit) {},
		func(l *limiter.Limit) { l.Amount = 2000 },
		func(l *limiter.Limit) { l.Burst = 5000 },
		func(l *limiter.Limit) { l.Window = time.Hour },
		func(l *limiter.Limit) { l.Shadow = true },
		func(l *limiter.Limit) { l.Hidden = true },
		func(l *limiter.Limit) { l.Algorithm = limiter.SlidingWindow },
		func(l *limiter.Limit) { l.Queue = limiter.Queue{MaxWait: time.Second, MaxDepth: 3} },
	}
	calendar := limiter.Limit{Name: "calendar", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1_000_000, Calendar: limiter.Month}
	slots := limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 4, Headroom: limiter.Headroom{Batch: 500_000}}
	settled := func(id string) limiter.Decision {
		var d limiter.Decision
		if err := n.Settle(now, &limiter.Usage{Key: "k", ID: id, Final: true}, &d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	last, first := "", []uint32(nil)
	for i, change := range append(changes, changes[0]) {
		l := base
		change(&l)
		r := &limiter.Request{Key: "k", ID: string(rune('a' + i)), Plan: n.plan("k", l, calendar, slots), Requests: 1, InputTokens: 1, Priority: limiter.Batch}
		peeked := note("Peek", n.peek(now, r))
		r.Priority = limiter.Interactive
		var d limiter.Decision
		if err := n.Reserve(now, r, &d); err != nil {
			t.Fatal(err)
		}
		reserved := note("Reserve", d)
		for j := range peeked {
			if peeked[j] != reserved[j] {
				t.Errorf("change %d: Peek has definitions %v, Reserve %v", i, peeked, reserved)
			}
		}
		switch {
		case i == 0:
			first = peeked
		case i == len(changes):
			if peeked[0] != first[0] {
				t.Errorf("taken back, the limit has definition %d, want %d as before", peeked[0], first[0])
			}
		case peeked[0] == first[0]:
			t.Errorf("change %d: the changed limit still has definition %d", i, first[0])
		}
		if last != "" {
			note("Settle after a change", settled(last))
		}
		last = r.ID
		now = now.Add(40 * 24 * time.Hour / 10)
	}
	if len(seen) != len(changes)+2 {
		t.Errorf("%d definitions, want %d", len(seen), len(changes)+2)
	}
}
