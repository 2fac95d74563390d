// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"maps"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/oracle"
	"github.com/bucketring/bucketring/internal/trace"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
)

// TestAzureTrace replays every call of the trace, as users of three tiers. Each
// answer and the final state must be exactly those of the oracle, and no limit may
// admit more than it promises.
func TestAzureTrace(t *testing.T) {
	calls, err := trace.Load()
	if err != nil {
		t.Fatal(err)
	}
	c, clock, stop, err := startNode(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	started := time.Now()
	history, err := replay(t.Context(), c, clock, calls)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls, %d events in %s", len(calls), len(history), time.Since(started).Round(time.Millisecond))
	logOutcomes(t, history)

	// The state of each key, one second after the last event.
	end := history[len(history)-1].at + time.Second
	clock.set(end)
	final := map[string]client.State{}
	for _, e := range history {
		if e.reserve == nil {
			continue
		}
		if _, seen := final[e.key]; !seen {
			if final[e.key], err = c.Peek(t.Context(), client.Query{Key: e.key, Tier: e.reserve.Tier, Model: model}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(final) != users.Count {
		t.Errorf("%d users made calls, want %d", len(final), users.Count)
	}

	byRoot := map[string][]entry{}
	for _, e := range history {
		root := keypath.Root(e.key)
		byRoot[root] = append(byRoot[root], e)
	}
	roots := slices.Sorted(maps.Keys(byRoot))
	if testing.Short() { // the oracle is slow, so check a part of the roots only
		roots = roots[len(roots)-2:]
	}
	for _, root := range roots {
		t.Run(root, func(t *testing.T) {
			entries := byRoot[root]
			t.Parallel()
			checkRoot(t, entries, final, end)
			checkSlots(t, entries)
		})
	}
}

// checkRoot replays the history of one root in the oracle. Roots are independent.
func checkRoot(t *testing.T, entries []entry, final map[string]client.State, end time.Duration) {
	compiled, err := policy.Parse("policy.yaml", []byte(policyYAML), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	o := oracle.New()
	for _, e := range entries {
		now := timeAt(e.at)
		if e.reserve != nil {
			want, err := o.Reserve(now, request(t, compiled, e.reserve))
			if err != nil {
				t.Fatalf("at %s: oracle: Reserve(%s): %v", e.at, e.id, err)
			}
			if diff := gocmp.Diff(decision(want), got(e.reserved)); diff != "" {
				t.Fatalf("at %s: Reserve(%s, %+v): oracle -, node +\n%s", e.at, e.id, *e.reserve, diff)
			}
			continue
		}
		want, err := o.Settle(now, &limiter.Usage{Key: e.key, ID: e.id, InputTokens: -1, OutputTokens: *e.usage.OutputTokens, Final: e.final})
		if err != nil {
			t.Fatalf("at %s: oracle: Settle(%s): %v", e.at, e.id, err)
		}
		if diff := gocmp.Diff(limits(want.Limits), e.settled.Limits); diff != "" {
			t.Fatalf("at %s: Settle(%s) of %d tokens: oracle -, node +\n%s", e.at, e.id, *e.usage.OutputTokens, diff)
		}
	}
	for key, state := range final {
		if keypath.Root(key) != keypath.Root(entries[0].key) {
			continue
		}
		want := o.Peek(timeAt(end), request(t, compiled, &client.Estimate{Key: key, Tier: state.Tier, Model: model}))
		if diff := gocmp.Diff(limits(want.Limits), state.Limits); diff != "" {
			t.Errorf("Peek(%s) at the end: oracle -, node +\n%s", key, diff)
		}
	}
	for _, violation := range o.Violations() {
		t.Error(violation)
	}
}

// checkSlots checks the number of concurrent calls that the node allowed.
func checkSlots(t *testing.T, entries []entry) {
	running := map[string]int{}
	for _, e := range entries {
		switch {
		case e.reserve != nil && e.reserved.Allowed():
			slots := map[string]int{"free": 2, "standard": 10, "enterprise": 50}[e.reserve.Tier]
			if running[e.key]++; running[e.key] > slots {
				t.Errorf("at %s: %s runs %d calls at once, want at most %d", e.at, e.key, running[e.key], slots)
			}
		case e.final:
			running[e.key]--
		}
	}
}

func request(t *testing.T, p *policy.Policy, e *client.Estimate) *limiter.Request {
	t.Helper()
	plan := &limiter.Plan{}
	if err := p.Resolve(limiter.Time{}, e.Key, e.Tier, e.Model, plan); err != nil {
		t.Fatal(err)
	}
	var output int64
	if e.MaxOutputTokens != nil {
		output = *e.MaxOutputTokens
	}
	return &limiter.Request{
		Key: e.Key, Tier: e.Tier, Model: e.Model, ID: e.RequestID, Plan: plan,
		Requests: 1, InputTokens: e.InputTokens, OutputTokens: output, Choices: 1,
	}
}

// answer is the part of a decision that node and oracle must agree on.
type answer struct {
	Outcome, Reason string
	Granted         int64
	RetryAfter      time.Duration
	Binding         string
	Limits          []client.LimitState
}

func got(r *client.Reservation) answer {
	return answer{
		string(r.Outcome), string(r.Reason), r.Granted(), r.RetryAfter,
		r.Binding.Scope + " " + r.Binding.Name, r.Limits,
	}
}

func decision(d limiter.Decision) answer {
	a := answer{
		Outcome: d.Outcome.String(), Reason: d.Reason.String(), Granted: d.GrantedOutputTokens,
		RetryAfter: max(0, d.RetryAfter), Limits: limits(d.Limits),
	}
	if d.Binding >= 0 {
		a.Binding = d.Limits[d.Binding].Scope + " " + d.Limits[d.Binding].Name
	}
	return a
}

func limits(states []limiter.LimitState) []client.LimitState {
	list := make([]client.LimitState, len(states))
	for i, s := range states {
		list[i] = client.LimitState{
			Name: s.Name, Dimension: string(s.Dimension), Scope: s.Scope, Algorithm: s.Algorithm.String(),
			Limit: s.Limit, Capacity: s.Capacity, Remaining: s.Remaining, Debt: s.Debt, Window: s.Window,
			Cost: s.Cost, Shadow: s.Shadow, Exceeded: s.Exceeded,
		}
		if s.ResetAt != 0 {
			list[i].ResetAt = time.Unix(0, s.ResetAt).UTC()
		}
	}
	return list
}

// logOutcomes logs the number of calls by tier and outcome.
func logOutcomes(t *testing.T, history []entry) {
	t.Helper()
	counts := map[string]int{}
	for _, e := range history {
		if e.reserve != nil {
			counts[e.reserve.Tier+" "+string(e.reserved.Outcome)+" "+e.reserved.Binding.Name]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%6d %s", counts[name], name)
	}
}
