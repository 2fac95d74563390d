// SPDX-License-Identifier: Apache-2.0

package fallback_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/fallback"
	"github.com/bucketring/bucketring/limiter/policy"
)

var (
	_ fallback.Resolver = (*policy.Policy)(nil)
	_ fallback.Resolver = (*fallback.Policy)(nil)
)

var noon = limiter.Time{Mono: 1e9, Wall: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixNano()}

// member is a member that decides without owners.
type member struct {
	*limiter.Engine
	t        testing.TB
	policies *fallback.Policies
}

func newMember(t testing.TB) *member {
	e := limiter.New(limiter.Options{})
	return &member{e, t, fallback.New(e.Catalog())}
}

func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(text), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// call makes request r under the fallback of base. It is a reserve if r has an id.
func (m *member) call(base fallback.Resolver, roster int, r limiter.Request) (d limiter.Decision) {
	m.t.Helper()
	r.Plan = &limiter.Plan{}
	if err := m.policies.Policy(base, roster).Resolve(limiter.Time{}, r.Key, r.Tier, r.Model, r.Plan); err != nil {
		m.t.Fatalf("Resolve(%s) = %v, want a plan", r.Key, err)
	}
	call := m.Check
	if r.ID != "" {
		call = m.Reserve
	}
	if err := call(noon, &r, &d); err != nil {
		m.t.Fatalf("call for %s = %v, want a decision", r.Key, err)
	}
	return d
}

func want(t testing.TB, call string, d limiter.Decision, outcome limiter.Outcome, reason limiter.Reason, binding string) {
	t.Helper()
	if d.Outcome != outcome || d.Reason != reason {
		t.Fatalf("%s = %s %s, want %s %s", call, d.Outcome, d.Reason, outcome, reason)
	}
	if binding != "" && (d.Binding < 0 || d.Limits[d.Binding].Name != binding) {
		t.Fatalf("%s: binding = %d of %+v, want %s", call, d.Binding, d.Limits, binding)
	}
}

// TestDefaultPolicy checks three members that decide without each other.
func TestDefaultPolicy(t *testing.T) {
	m, base := newMember(t), policy.Default(limiter.NewCatalog())

	paid := limiter.Request{Key: "acme/alice", Tier: "standard", Requests: 1, InputTokens: 900}
	d := m.call(base, 3, paid)
	want(t, "a call that costs money", d, limiter.Denied, limiter.OwnerUnreachable, "spend")
	if d.RetryAfter != time.Second {
		t.Errorf("retry after %s, want 1 s", d.RetryAfter)
	}
	d = m.call(base, 3, limiter.Request{Key: "acme/alice", Tier: "standard", ID: "r", Requests: 1, OutputTokens: 900})
	want(t, "a reserve that may cost money", d, limiter.Denied, limiter.OwnerUnreachable, "spend")

	free := limiter.Request{Key: "acme/alice", Tier: "standard", Requests: 1}
	for i := range 20 {
		d = m.call(base, 3, free)
		want(t, fmt.Sprintf("request %d of a third of 60", i+1), d, limiter.Allowed, limiter.NoReason, "")
	}
	for _, l := range d.Limits {
		if l.Name == "spend" && (l.Limit != 50_000_000 || l.Remaining != l.Limit) {
			t.Errorf("spend = %d of %d left, want all of 50 dollars", l.Remaining, l.Limit)
		}
	}
	want(t, "request 21", m.call(base, 3, free), limiter.Denied, limiter.LimitExceeded, "requests")

	// The enterprise tier has no budget: its tokens are shared.
	tokens := limiter.Request{Key: "big", Tier: "enterprise", Requests: 1, InputTokens: 333_333}
	want(t, "a third of a million tokens", m.call(base, 3, tokens), limiter.Allowed, limiter.NoReason, "")
	tokens.InputTokens = 1
	want(t, "one more", m.call(base, 3, tokens), limiter.Denied, limiter.LimitExceeded, "tokens")
	tokens.InputTokens = 333_334
	want(t, "more than the share", m.call(base, 3, tokens), limiter.Denied, limiter.OwnerUnreachable, "tokens")
	tokens.InputTokens = 1_000_001
	want(t, "more than the limit", m.call(base, 3, tokens), limiter.Denied, limiter.ExceedsCapacity, "tokens")

	// Two slots are none for each of three, and one for each of two.
	reserve := limiter.Request{Key: "acme/bob", Tier: "free", Requests: 1, ID: "a"}
	d = m.call(base, 3, reserve)
	want(t, "a slot of two, shared by three", d, limiter.Denied, limiter.OwnerUnreachable, "concurrent")
	want(t, "a slot of two, shared by two", m.call(base, 2, reserve), limiter.Allowed, limiter.NoReason, "")
	reserve.ID = "b"
	want(t, "a second one", m.call(base, 2, reserve), limiter.Denied, limiter.LimitExceeded, "concurrent")
}

func TestOpenNeverDenies(t *testing.T) {
	m, base := newMember(t), parse(t, `
tiers:
  free:
    limits:
      - { name: rpm, dimension: requests, limit: 1, window: 1m, unreachable: open }
      - { name: budget, dimension: spend, limit: $1, window: day, unreachable: open }
      - { name: slots, dimension: concurrent, limit: 1, unreachable: open }
default_tier: free
prices: { "*": { input: 1.00, output: 1.00 } }
`)
	for i := range 5 {
		d := m.call(base, 100, limiter.Request{Key: "k", ID: fmt.Sprint("r", i), Requests: 3, InputTokens: 5_000_000})
		want(t, "a call far above every limit", d, limiter.Allowed, limiter.NoReason, "")
		for _, l := range d.Limits {
			if !l.Shadow || l.Name != "slots" && !l.Exceeded {
				t.Fatalf("call %d: %+v, want a limit in shadow that counts", i+1, l)
			}
		}
	}
}

// TestDegradeShrinksToTheShare checks that a limit degrades to the share of the member,
// and that a closed limit does not degrade.
func TestDegradeShrinksToTheShare(t *testing.T) {
	text := `
tiers:
  free: { limits: [ { name: tpm, dimension: tokens, limit: 3_000, window: 1m, on_exceed: degrade, unreachable: %s } ] }
default_tier: free
`
	r := limiter.Request{Key: "k", ID: "r", OutputTokens: 2000}
	d := newMember(t).call(parse(t, fmt.Sprintf(text, "share")), 3, r)
	want(t, "2000 tokens of a share of 1000", d, limiter.Degraded, limiter.NoReason, "tpm")
	if d.GrantedOutputTokens != 992 {
		t.Errorf("granted %d tokens, want 992", d.GrantedOutputTokens)
	}
	d = newMember(t).call(parse(t, fmt.Sprintf(text, "closed")), 3, r)
	want(t, "2000 tokens of a closed limit", d, limiter.Denied, limiter.OwnerUnreachable, "tpm")
	r.MinOutputTokens = 1500
	d = newMember(t).call(parse(t, fmt.Sprintf(text, "share")), 3, r)
	want(t, "at least 1500 of a share of 1000", d, limiter.Denied, limiter.OwnerUnreachable, "tpm")
}

// TestRosterChangeKeepsUsage checks that usage counts after the share changes.
func TestRosterChangeKeepsUsage(t *testing.T) {
	m, base := newMember(t), parse(t, `
tiers:
  free: { limits: [ { name: rpm, dimension: requests, limit: 60, window: 1h }, { name: preview, dimension: requests, limit: 30, window: 1h, models: ["*"] } ] }
default_tier: free
`)
	left := func(roster int, requests int64) [2]int64 {
		d := m.call(base, roster, limiter.Request{Key: "k", Model: "m", Requests: requests})
		want(t, fmt.Sprintf("%d requests, shared by %d", requests, roster), d, limiter.Allowed, limiter.NoReason, "")
		return [2]int64{d.Limits[0].Remaining - d.Limits[0].Debt, d.Limits[1].Remaining - d.Limits[1].Debt}
	}
	for _, c := range []struct {
		roster   int
		requests int64
		want     [2]int64
	}{{2, 10, [2]int64{20, 5}}, {3, 0, [2]int64{10, 0}}, {6, 0, [2]int64{0, -5}}, {40, 0, [2]int64{-9, 20}}, {1, 0, [2]int64{50, 20}}, {1, 20, [2]int64{30, 0}}} {
		if got := left(c.roster, c.requests); got != c.want {
			t.Errorf("left for one of %d after %d requests more = %v, want %v", c.roster, c.requests, got, c.want)
		}
	}
}

// TestPlanIsThePolicys checks that only the limits of a plan change.
func TestPlanIsThePolicys(t *testing.T) {
	base := parse(t, `
tiers:
  org: { tokens: 100/min, estimate: { mode: fixed, output_tokens: 7 } }
  free: { requests: 10/min, limits: [ { name: preview, dimension: tokens, limit: 9, window: 1m, models: [m] } ] }
default_tier: free
assign: [ { key: acme, tier: org } ]
prices: { "m": { input: 1.00, output: 2.00 } }
`)
	p := fallback.New(limiter.NewCatalog()).Policy(base, 2)
	for _, model := range []string{"", "m", "other"} {
		var got, plan limiter.Plan
		if err := errors.Join(p.Resolve(limiter.Time{}, "acme/alice", "", model, &got), base.Resolve(limiter.Time{}, "acme/alice", "", model, &plan)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(plan, got, cmpopts.IgnoreFields(limiter.Level{}, "Limits", "Model"), cmpopts.EquateComparable(limiter.ServiceTiers{})); diff != "" {
			t.Errorf("plan for model %q differs (-policy +fallback):\n%s", model, diff)
		}
		for i := range plan.Count {
			for _, sets := range [][2]*limiter.LimitSet{{plan.Levels[i].Limits, got.Levels[i].Limits}, {plan.Levels[i].Model, got.Levels[i].Model}} {
				if (sets[0] == nil) != (sets[1] == nil) {
					t.Fatalf("model %q, level %d: sets of limits = %v, want as the policy has them, %v", model, i, sets[1], sets[0])
				}
				if sets[0] == nil {
					continue
				}
				var ours []limiter.Limit
				for _, l := range sets[0].Limits() {
					ours = append(ours, fallback.Limit(l, 2))
				}
				if diff := cmp.Diff(ours, sets[1].Limits(), cmp.Comparer(func(a, b *time.Location) bool { return a == b })); diff != "" {
					t.Errorf("model %q, level %d: limits differ (-want +got):\n%s", model, i, diff)
				}
			}
		}
	}
}

func TestErrorsAreThePolicys(t *testing.T) {
	p := fallback.New(limiter.NewCatalog()).Policy(policy.Default(limiter.NewCatalog()), 3)
	var plan limiter.Plan
	var field *limiter.FieldError
	if err := p.Resolve(limiter.Time{}, "k", "fre", "", &plan); !errors.As(err, &field) || field.Field != "tier" {
		t.Errorf("Resolve(tier fre) = %v, want a FieldError for tier", err)
	}
}

// wrong is a Resolver with invalid limits.
type wrong struct{ set *limiter.LimitSet }

func (w *wrong) Resolve(_ limiter.Time, _, _, _ string, plan *limiter.Plan) error {
	plan.Count, plan.Levels[0] = 1, limiter.Level{End: 1, Limits: w.set}
	return nil
}

// TestImpossibleLimitsAreAnError checks that invalid limits are an error.
func TestImpossibleLimitsAreAnError(t *testing.T) {
	set, err := limiter.NewCatalog().LimitSet([]limiter.Limit{bucket(10, 0, limiter.Share)})
	if err != nil {
		t.Fatal(err)
	}
	set.Limits()[0].Window = 0
	var problem *limiter.LimitError
	if err := fallback.New(limiter.NewCatalog()).Policy(&wrong{set}, 3).Resolve(limiter.Time{}, "k", "", "", new(limiter.Plan)); !errors.As(err, &problem) {
		t.Errorf("Resolve with an impossible limit = %v, want a LimitError", err)
	}
}

func TestPolicyIsCached(t *testing.T) {
	p, base := fallback.New(limiter.NewCatalog()), policy.Default(limiter.NewCatalog())
	first := p.Policy(base, 3)
	var a, b limiter.Plan
	resolve := func(q *fallback.Policy, plan *limiter.Plan) {
		t.Helper()
		if err := q.Resolve(limiter.Time{}, "acme/alice", "free", "", plan); err != nil {
			t.Fatal(err)
		}
	}
	resolve(first, &a)
	if again := p.Policy(base, 3); again != first {
		t.Error("the second Policy call returned another one, want the same")
	} else if resolve(again, &b); a.Levels[0].Limits != b.Levels[0].Limits {
		t.Error("the second Resolve call compiled again")
	}
	four := p.Policy(base, 4)
	if resolve(four, &b); four == first || four.Roster() != 4 || a.Levels[0].Limits == b.Levels[0].Limits {
		t.Error("a larger roster has the same shares")
	}
	if p.Policy(base, -1) != p.Policy(base, 1) {
		t.Error("Policy(-1) differs from Policy(1)")
	}
	reloaded := policy.Default(limiter.NewCatalog())
	if p.Policy(reloaded, 3) == p.Policy(base, 3) {
		t.Error("another policy has the same fallback")
	}
	for name, f := range map[string]func(){
		"Policy":             func() { p.Policy(base, 3) },
		"Policy and Resolve": func() { resolve(p.Policy(base, 3), &a) },
	} {
		f()
		if allocs := testing.AllocsPerRun(200, f); allocs != 0 {
			t.Errorf("%s: %v allocations, want 0", name, allocs)
		}
	}
}

// TestConcurrentUse resolves and decides while policy and roster change. No more than
// the largest share is admitted, and no plan has the sets of another roster.
func TestConcurrentUse(t *testing.T) {
	m := newMember(t)
	texts := []string{"tiers: { free: { requests: 600/h, tokens: 100/min } }\ndefault_tier: free\n", "tiers: { free: { requests: 600/h } }\ndefault_tier: free\n"}
	bases := make([]*policy.Policy, 2)
	for i := range bases {
		bases[i] = parse(t, texts[i])
	}
	var admitted [8]int64
	var wg sync.WaitGroup
	for g := range admitted {
		wg.Go(func() {
			var d limiter.Decision
			for i := range 400 {
				roster := 2 + (i/50+g)%3
				q := m.policies.Policy(bases[i/20%2], roster)
				r := limiter.Request{Key: "k", Plan: &limiter.Plan{}, Requests: 1}
				if err := q.Resolve(limiter.Time{}, r.Key, "", "", r.Plan); err != nil {
					t.Errorf("Resolve = %v, want a plan", err)
					return
				}
				if got := r.Plan.Levels[0].Limits.Limits()[0].Amount; got != int64(600/roster) {
					t.Errorf("share of one of %d = %d, want %d", roster, got, 600/roster)
				}
				if err := m.Check(noon, &r, &d); err != nil {
					t.Errorf("Check = %v, want a decision", err)
				}
				if d.Outcome == limiter.Allowed {
					admitted[g]++
				}
			}
		})
	}
	wg.Wait()
	var sum int64
	for _, n := range admitted {
		sum += n
	}
	if sum != 300 {
		t.Errorf("admitted %d requests, want the largest share, 300", sum)
	}
}

func BenchmarkResolve(b *testing.B) {
	base := policy.Default(limiter.NewCatalog())
	p := fallback.New(limiter.NewCatalog())
	for name, resolver := range map[string]func() fallback.Resolver{
		"policy":   func() fallback.Resolver { return base },
		"fallback": func() fallback.Resolver { return p.Policy(base, 3) },
	} {
		b.Run(name, func(b *testing.B) {
			var plan limiter.Plan
			b.ReportAllocs()
			for b.Loop() {
				if err := resolver().Resolve(limiter.Time{}, "acme/alice", "", "m", &plan); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
