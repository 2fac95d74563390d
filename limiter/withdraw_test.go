// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// TestWithdraw: a sending that is taken back leaves nothing, unless somebody else
// goes by the reservation.
func TestWithdraw(t *testing.T) {
	const key = "acme/alice"
	base := limiter.Request{Key: key, ID: "r", Requests: 1, InputTokens: 100, OutputTokens: 50, TTL: 20 * time.Second}
	type step func(n *node, r limiter.Request) // at noon, but for what comes later
	sent := func(attempt uint64) step {
		return func(n *node, r limiter.Request) {
			r.Attempt = attempt
			n.reserve(noon, &r)
		}
	}
	withdrawn := func(attempt uint64) step {
		return func(n *node, r limiter.Request) { n.Withdraw(noon, r.Key, r.ID, attempt) }
	}
	told := func(n *node, r limiter.Request) {
		r.Force = true
		n.reserve(noon, &r)
	}
	moved := func(n *node, _ limiter.Request) {
		p := limiter.PartitionOf(key)
		if err := n.Restore(noon, p, n.Snapshot(noon, p, nil), nil); err != nil {
			n.t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name          string
		steps         []step
		tokens, slots int64
	}{
		{"the only one", []step{sent(1), withdrawn(1)}, 0, 0},
		{"sent twice over a link", []step{sent(1), sent(1), withdrawn(1)}, 0, 0},
		{"both", []step{sent(1), sent(2), withdrawn(1), withdrawn(2)}, 0, 0},
		{"one of two", []step{sent(1), sent(2), withdrawn(1)}, 150, 1},
		{"one of two, twice", []step{sent(1), sent(2), withdrawn(1), withdrawn(1)}, 150, 1},
		{"two of three", []step{sent(1), sent(2), sent(3), withdrawn(1), withdrawn(2)}, 150, 1},
		{"another one", []step{sent(1), withdrawn(2)}, 150, 1},
		{"answered directly before", []step{sent(0), sent(1), withdrawn(1)}, 150, 1},
		{"answered directly after", []step{sent(1), sent(0), withdrawn(1)}, 150, 1},
		{"admitted in fallback", []step{sent(1), told, withdrawn(1)}, 150, 1},
		{"admitted in fallback afterwards", []step{sent(1), withdrawn(1), told}, 150, 1},
		{"asked again", []step{sent(1), withdrawn(1), sent(2)}, 150, 1},
		{"after a move nobody knows", []step{sent(1), moved, withdrawn(1)}, 150, 1},
		{"none", []step{sent(1), withdrawn(0)}, 150, 1},
		{"settled", []step{sent(1), func(n *node, r limiter.Request) {
			n.settle(noon, limiter.Usage{Key: key, ID: r.ID, InputTokens: 100, OutputTokens: 7, Final: true})
		}, withdrawn(1)}, 107, 0},
		{"expired", []step{sent(1), func(n *node, r limiter.Request) {
			n.Withdraw(noon.At(21*time.Second), r.Key, r.ID, 1)
		}}, 0, 0},
		{"under another key", []step{sent(1), func(n *node, r limiter.Request) { n.Withdraw(noon, "acme/bob", r.ID, 1) }}, 150, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			r := base
			r.Plan = n.plan(key,
				limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 6000, Calendar: limiter.Day},
				limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 2})
			for _, do := range tt.steps {
				do(n, r)
			}
			d := n.peek(noon, &r)
			wantUsed(t, "afterwards", d, 0, tt.tokens)
			wantUsed(t, "afterwards", d, 1, tt.slots)
		})
	}
}

// TestWithdrawnBeforeItCame: the withdrawal overtakes the reserve.
func TestWithdrawnBeforeItCame(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme/alice", ID: "r", InputTokens: 100, Attempt: 1}
	r.Plan = n.plan(r.Key, tokenLimits()...)
	n.Withdraw(noon, r.Key, r.ID, 1)
	p := limiter.PartitionOf(r.Key)
	if err := n.Restore(noon, p, n.Snapshot(noon, p, nil), nil); err != nil { // a move does not forget it
		t.Fatal(err)
	}
	var d limiter.Decision
	for _, later := range []time.Duration{0, 30*time.Second - 1} {
		if err := n.Reserve(noon.At(later), r, &d); !errors.Is(err, limiter.ErrWithdrawn) {
			t.Errorf("Reserve() after %s = %v, want %v", later, err, limiter.ErrWithdrawn)
		}
	}
	again := *r
	again.Attempt = 2
	if d := n.reserve(noon, &again); d.Outcome != limiter.Allowed || d.Replayed {
		t.Errorf("another sending: %+v, want a new reservation", d)
	}
	n.cancel(noon, r.Key, r.ID)
}
