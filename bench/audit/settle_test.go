// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// Usage that was accepted in fallback may or may not have reached the owner when it
// reports usage. In both cases nothing was lost or charged twice.
func TestPendingSettle(t *testing.T) {
	limits := []audit.Limit{
		{Dimension: audit.Tokens, Amount: 1000},
		{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 5},
	}
	for _, tt := range []struct {
		name            string
		route           string
		tokens, slots   int64
		excess, missing int64 // of tokens
		held            int64 // slots that are not explained
	}{
		{"the owner has it", "forward", 30, 0, 0, 0, 0},
		{"the owner took it, and holds on", "forward", 100, 1, 70, 0, 1},
		{"it has arrived", "fallback", 30, 0, 0, 0, 0},
		{"it is on its way", "fallback", 100, 1, 0, 0, 0},
		{"on its way, and more was charged", "fallback", 130, 2, 30, 0, 1},
		{"on its way, and less was charged", "fallback", 5, 0, 0, 5, 0}, // the input stays, whatever the output
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, both := llm("k", 0, 5) // 10 and at most 90, and 10 and 20 in the end
			both[1].Answer = bench.Answer{Route: tt.route, Owner: "n2"}
			st := usedOf("k", audit.Tokens, tt.tokens)
			st.Used = append(st.Used, bench.LimitUsage{Scope: "k", Dimension: audit.Concurrent, Used: tt.slots})
			r := run(t, audit.Options{Limits: limits}, both, st)
			if d := dimension(t, r, audit.Tokens); d.Excess != tt.excess || d.Missing != tt.missing || d.Compared != 1 {
				t.Errorf("tokens: %+v, want %d excess, %d missing", d, tt.excess, tt.missing)
			}
			if d := dimension(t, r, audit.Concurrent); d.Excess != tt.held {
				t.Errorf("slots: %+v, want %d too many", d, tt.held)
			}
			for _, c := range r.Charges {
				if want := map[string]string{"fallback": "its usage had not reached the owner"}[tt.route]; len(c.Suspects) > 0 && c.Suspects[0].Why != want {
					t.Errorf("suspected because %q, want %q", c.Suspects[0].Why, want)
				}
			}
		})
	}
}

// Small charges that were answered shortly before a node failed may be lost, and others not.
func TestAllowLoss(t *testing.T) {
	for _, window := range []time.Duration{0, 24 * time.Hour} {
		for _, tt := range []struct {
			name          string
			cost          int64
			from, to      int
			used, missing int64
		}{
			{"none is allowed", 9, 0, 0, 18, 9},
			{"another time", 9, 20, 40, 18, 9},
			{"one is lost", 9, 2, 3, 18, 0},
			{"and one more", 9, 2, 3, 9, 9},
			{"1 % of the limit", 10, 2, 3, 20, 10},
		} {
			l := requests(1000)
			if l.Window = window; window > 0 {
				l.Algorithm = audit.TokenBucket
			}
			a, err := audit.New(audit.Options{Limits: []audit.Limit{l}})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				e := event(bench.OpCheck, check("k", i, tt.cost), at(i), at(i)+ms/2, allowed)
				a.Add(&e)
			}
			if tt.to > 0 {
				a.AllowLoss(at(tt.from), at(tt.to))
			}
			final := usedOf("k", audit.Requests, tt.used)
			final.Sent, final.Done = at(5), at(5)+ms/2
			a.AddFinalUsage(final)
			if d := dimension(t, a.Report(), audit.Requests); d.Compared != 1 || d.Missing > tt.missing || d.Missing < tt.missing-1 || d.Excess != 0 { // the bucket refills less than one
				t.Errorf("%s, window %s: %+v, want %d missing", tt.name, window, d, tt.missing)
			}
		}
	}
}
