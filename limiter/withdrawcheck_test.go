// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// TestWithdrawCheck checks that withdrawing an attempt of a check refunds it, unless
// another caller may use its answer.
func TestWithdrawCheck(t *testing.T) {
	const key = "acme/alice"
	base := limiter.Request{Key: key, ID: "c", Requests: 2, InputTokens: 100, OutputTokens: 50}
	type step func(n *node, r limiter.Request)
	check := func(attempt uint64) step {
		return func(n *node, r limiter.Request) {
			r.Attempt = attempt
			n.check(noon, &r)
		}
	}
	withdraw := func(attempt uint64) step {
		return func(n *node, r limiter.Request) {
			r.Attempt = attempt
			_ = n.WithdrawCheck(noon, &r, new(limiter.Decision))
		}
	}
	change := func(f func(*limiter.Request)) step {
		return func(n *node, r limiter.Request) {
			r.Attempt = 1
			f(&r)
			_ = n.WithdrawCheck(noon, &r, new(limiter.Decision))
		}
	}
	for _, tt := range []struct {
		name   string
		steps  []step
		tokens int64
	}{
		{"the only attempt", []step{check(1), withdraw(1)}, 0},
		{"an attempt that arrives twice", []step{check(1), check(1), withdraw(1)}, 0},
		{"both attempts", []step{check(1), check(2), withdraw(1), withdraw(2)}, 0},
		{"one attempt of two", []step{check(1), check(2), withdraw(1)}, 150},
		{"one attempt of two, twice", []step{check(1), check(2), withdraw(1), withdraw(1)}, 150},
		{"two attempts of three", []step{check(1), check(2), check(3), withdraw(1), withdraw(2)}, 150},
		{"all of three attempts", []step{check(1), check(2), check(3), withdraw(3), withdraw(1), withdraw(2)}, 0},
		{"more attempts than are listed", []step{check(1), check(2), check(3), check(4), check(5), withdraw(1), withdraw(2), withdraw(3), withdraw(4), withdraw(5)}, 150},
		{"another attempt", []step{check(1), withdraw(2)}, 150},
		{"a call without attempt before", []step{check(0), check(1), withdraw(1)}, 150},
		{"a call without attempt after", []step{check(1), check(0), withdraw(1)}, 150},
		{"admitted in fallback", []step{check(1), func(n *node, r limiter.Request) {
			r.Force = true
			n.check(noon, &r)
		}, withdraw(1)}, 150},
		{"admitted in fallback before", []step{func(n *node, r limiter.Request) {
			r.Force, r.Attempt = true, 1
			n.check(noon, &r)
		}, withdraw(1)}, 150},
		{"another attempt after it", []step{check(1), withdraw(1), check(2)}, 150},
		{"after a restart", []step{check(1), func(n *node, _ limiter.Request) {
			p := limiter.PartitionOf(key)
			if err := n.Restore(noon, p, n.Snapshot(noon, p, nil), nil); err != nil {
				n.t.Fatal(err)
			}
		}, withdraw(1)}, 0},
		{"attempt 0", []step{check(0), withdraw(0)}, 150},
		{"as a reserve", []step{check(1), func(n *node, r limiter.Request) { _, _ = n.Withdraw(noon, key, r.ID, 1) }}, 150},
		{"of a reserve", []step{func(n *node, r limiter.Request) {
			r.Attempt = 1
			n.reserve(noon, &r)
		}, withdraw(1)}, 150},
		{"with other numbers", []step{check(1), change(func(r *limiter.Request) { r.InputTokens++ })}, 150},
		{"under another policy", []step{check(1), change(func(r *limiter.Request) {
			other := *r.Plan
			other.Version++
			r.Plan = &other
		})}, 150},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			r := base
			r.Plan = n.plan(key,
				limiter.Limit{Name: "day", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 6000, Calendar: limiter.Day},
				limiter.Limit{Name: "sliding", Dimension: limiter.Tokens, Algorithm: limiter.SlidingWindow, Amount: 6000, Window: time.Minute},
				limiter.Limit{Name: "bucket", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 6000, Window: time.Minute},
				limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 60, Calendar: limiter.Day})
			for _, do := range tt.steps {
				do(n, r)
			}
			d := n.peek(noon, &r)
			for i := range 3 {
				wantUsed(t, "afterwards", d, i, tt.tokens)
			}
			wantUsed(t, "afterwards", d, 3, tt.tokens/75)
		})
	}
}

// TestWithdrawnCheckBeforeArrival checks a withdrawal that arrives before its attempt.
func TestWithdrawnCheckBeforeArrival(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme/alice", ID: "c", InputTokens: 100, Attempt: 1}
	r.Plan = n.plan(r.Key, tokenLimits()...)
	var d limiter.Decision
	_ = n.WithdrawCheck(noon, r, &d)
	if err := n.Check(noon.Add(30*time.Second-1), r, &d); !errors.Is(err, limiter.ErrWithdrawn) {
		t.Errorf("Check() = %v, want %v", err, limiter.ErrWithdrawn)
	}
	r.Attempt = 2
	if d := n.check(noon, r); d.Outcome != limiter.Allowed || d.Replayed {
		t.Errorf("another attempt: %+v, want a new decision", d)
	}
}

// TestWithdrawnCheckNeverHappened compares an engine in which checks are withdrawn with
// one that never got them. A window counts the same in both, and a token bucket is never
// lower, and higher by no more than what it refilled until the withdrawals. A policy
// cannot be exceeded by withdrawing, and open reservations still settle exactly.
func TestWithdrawnCheckNeverHappened(t *testing.T) {
	const key = "acme/alice"
	const rate = 600 // tokens a minute
	c := limiter.NewCatalog()
	p := plan(key, mustSet(t, c,
		limiter.Limit{Name: "fixed", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 1e9, Window: 15 * time.Second},
		limiter.Limit{Name: "sliding", Dimension: limiter.Tokens, Algorithm: limiter.SlidingWindow, Amount: 1e9, Window: time.Minute},
		limiter.Limit{Name: "bucket", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: rate, Burst: 1e9, Window: time.Minute}))
	rapid.Check(t, func(t *rapid.T) {
		with, without := limiter.New(limiter.Options{Catalog: c}), limiter.New(limiter.Options{Catalog: c})
		now := noon
		var d limiter.Decision
		must := func(err error) {
			t.Helper()
			if err != nil || d.Outcome != limiter.Allowed {
				t.Fatalf("the call = %+v, %v, want allowed", d, err)
			}
		}
		type sent struct {
			request limiter.Request
			at      limiter.Time
		}
		var late []sent // checks that will be withdrawn
		var open []string
		kept := int64(0) // refill of the withdrawn checks, in nanoseconds
		withdraw := func(s sent) {
			_ = with.WithdrawCheck(now, &s.request, &d)
			kept += min(now.Mono-s.at.Mono, s.request.InputTokens*int64(time.Minute)/rate)
		}
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			r := limiter.Request{Key: key, ID: string(rune('A' + i)), Plan: p, InputTokens: rapid.Int64Range(1, 100).Draw(t, "tokens"), Attempt: uint64(i + 1)}
			switch rapid.SampledFrom([]string{"check", "late", "late", "withdraw", "withdraw", "reserve", "settle", "pass", "pass"}).Draw(t, "op") {
			case "check":
				must(with.Check(now, &r, &d))
				must(without.Check(now, &r, &d))
			case "late":
				must(with.Check(now, &r, &d))
				late = append(late, sent{r, now})
			case "withdraw":
				if len(late) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(late)-1).Draw(t, "which")
				withdraw(late[i])
				late = append(late[:i], late[i+1:]...)
			case "reserve":
				r.TTL = time.Hour
				must(with.Reserve(now, &r, &d))
				must(without.Reserve(now, &r, &d))
				open = append(open, r.ID)
			case "settle":
				if len(open) == 0 {
					continue
				}
				u := &limiter.Usage{Key: key, ID: open[0], InputTokens: rapid.Int64Range(0, 100).Draw(t, "used"), Final: true}
				must(with.Settle(now, u, &d))
				must(without.Settle(now, u, &d))
				open = open[1:]
			case "pass":
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 3 * time.Second, 8 * time.Second}).Draw(t, "passes"))
			}
			for len(late) > 0 && now.Mono-late[0].at.Mono >= int64(20*time.Second) { // before it is forgotten
				withdraw(late[0])
				late = late[1:]
			}
		}
		for _, s := range late {
			withdraw(s)
		}
		var want limiter.Decision
		with.Peek(now, &limiter.Request{Key: key, Plan: p}, &d)
		without.Peek(now, &limiter.Request{Key: key, Plan: p}, &want)
		for i := range 2 {
			if got, want := used(d.Limits[i]), used(want.Limits[i]); got != want {
				t.Fatalf("%s: %d tokens used, want %d", d.Limits[i].Name, got, want)
			}
		}
		got, least := used(d.Limits[2]), used(want.Limits[2])
		if most := least + kept*rate/int64(time.Minute) + 1; got < least || got > most {
			t.Fatalf("bucket: %d tokens used, want between %d and %d", got, least, most)
		}
	})
}
