// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

const overrideTiers = `tiers:
  free:
    requests: 10/min
    tokens: 10_000/min
    concurrent: 2
    spend: $1/day
    limits:
      - { name: images, dimension: images, limit: 5, window: day }
      - { name: big, dimension: requests, limit: 3, window: 1m, models: ["big-*"] }
      - { name: bursty, dimension: input_tokens, limit: 1000, window: 1m, burst: 100 }
  berlin: { zone: Europe/Berlin, spend: $5/day, tokens: 70_000/min }
  named: { limits: [{ name: extra, dimension: requests, limit: 7, window: 1m }] }
default_tier: free
`

func wall(t testing.TB, s string) limiter.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return limiter.Time{Mono: 1, Wall: at.UnixNano()}
}

// limitText returns a limit of the last level of a key at a time.
func limitText(t testing.TB, p *Policy, now, key, tier, model, name string) string {
	t.Helper()
	var plan limiter.Plan
	if err := p.Resolve(wall(t, now), key, tier, model, &plan); err != nil {
		t.Fatal(err)
	}
	level := plan.Levels[plan.Count-1]
	for _, set := range []*limiter.LimitSet{level.Limits, level.Model} {
		if set == nil {
			continue
		}
		for _, l := range set.Limits() {
			if l.Name == name {
				d := limitDef{Limit: l}
				return d.text()
			}
		}
	}
	return "none"
}

func TestOverrides(t *testing.T) {
	p := mustParse(t, overrideTiers+`
assign: [{ key: b/x, tier: berlin }]
overrides:
  - { key: acme/alice, limit: tokens, value: 500_000/min, until: 2026-12-24, reason: launch }
  - { key: acme/alice, limit: requests, value: 1, until: "2026-12-01T12:00:00+01:00" }
  - { key: acme/alice, limit: concurrent, value: 20, until: 2026-12-24 }
  - { key: acme/alice, limit: spend, value: $50, until: 2026-12-24 }
  - { key: acme/alice, limit: images, value: 9/hour, until: 2026-12-24 }
  - { key: acme/alice, limit: big, value: 30/h, until: 2026-12-24 }
  - { key: acme/alice, limit: bursty, value: 0, until: 2026-12-24 }
  - raise b/x spend to $100/month until 2026-12-24 because they asked
  - raise b/x tokens to 80_000 until 2026-12-25
`)
	const before = "2026-11-29T00:00:00Z"
	for _, test := range []struct{ now, key, tier, model, limit, want string }{
		{before, "acme/alice", "", "", "tokens", "500000/1m"},
		{"2026-12-23T23:59:59Z", "acme/alice", "", "", "tokens", "500000/1m"},
		{"2026-12-24T00:00:00Z", "acme/alice", "", "", "tokens", "10000/1m"},
		{before, "acme/bob", "", "", "tokens", "10000/1m"},
		{before, "acme/alice/x", "", "", "tokens", "10000/1m"},
		{before, "acme/alice", "berlin", "", "tokens", "500000/1m"}, // the tier that a call names
		{"2026-12-01T10:59:59Z", "acme/alice", "", "", "requests", "1/1m"},
		{"2026-12-01T11:00:00Z", "acme/alice", "", "", "requests", "10/1m"},
		{"2026-12-01T11:00:00Z", "acme/alice", "", "", "tokens", "500000/1m"},
		{before, "acme/alice", "", "", "concurrent", "20"},
		{before, "acme/alice", "", "", "spend", "$50/day"},
		{before, "acme/alice", "", "", "images", "9/hour fixed_window"},
		{before, "acme/alice", "", "big-1", "big", "30/1h"},
		{before, "acme/alice", "", "small", "big", "none"},
		{before, "acme/alice", "", "", "bursty", "0/1m"},
		{before, "b/x", "", "", "spend", "$100/month zone=Europe/Berlin"},
		{"2026-12-23T22:59:59Z", "b/x", "", "", "spend", "$100/month zone=Europe/Berlin"},
		{"2026-12-23T23:00:00Z", "b/x", "", "", "spend", "$5/day zone=Europe/Berlin"},
		{"2026-12-24T22:00:00Z", "b/x", "", "", "tokens", "80000/1m"},
	} {
		if got := limitText(t, p, test.now, test.key, test.tier, test.model, test.limit); got != test.want {
			t.Errorf("%s of %s at %s with tier %q = %s, want %s", test.limit, test.key, test.now, test.tier, got, test.want)
		}
	}
	var plan limiter.Plan
	now := wall(t, before)
	if allocs := testing.AllocsPerRun(100, func() {
		if err := p.Resolve(now, "acme/alice", "", "big-1", &plan); err != nil {
			t.Fatal(err)
		}
	}); allocs != 0 {
		t.Errorf("Resolve with overrides allocates %v times", allocs)
	}
	if got := p.Overrides(); got != 9 {
		t.Errorf("Overrides() = %d, want 9", got)
	}
	ended := p.Ended(time.Unix(0, wall(t, "2026-12-02T00:00:00Z").Wall))
	if len(ended) != 1 || ended[0].String() != "policy.yaml:18:12: the override of requests of acme/alice ended at 2026-12-01T11:00:00Z: remove it" {
		t.Errorf("Ended = %v", ended)
	}
}

// TestOverrideKeepsUsage: what was used is kept when an override begins and ends.
func TestOverrideKeepsUsage(t *testing.T) {
	catalog := limiter.NewCatalog()
	p, err := Parse("p.yaml", []byte("tiers: { free: { spend: $10/day } }\ndefault_tier: free\nprices: { '*': { input: 1_000_000, output: 0 } }\n"), catalog)
	if err != nil {
		t.Fatal(err)
	}
	q, err := p.With(Delta{Overrides: []Override{{Key: "k", Limit: "spend", Value: "$20", Until: "2026-11-29T12:00:00Z"}}})
	if err != nil {
		t.Fatal(err)
	}
	engine := limiter.New(limiter.Options{Catalog: catalog})
	check := func(p *Policy, now string, dollars int64) (outcome string, remaining int64) {
		t.Helper()
		var plan limiter.Plan
		var d limiter.Decision
		at := wall(t, now)
		if err := p.Resolve(at, "k", "", "", &plan); err != nil {
			t.Fatal(err)
		}
		if err := engine.Check(at, &limiter.Request{Key: "k", Plan: &plan, InputTokens: dollars}, &d); err != nil {
			t.Fatal(err)
		}
		return d.Outcome.String(), d.Limits[0].Remaining / micros
	}
	for _, step := range []struct {
		p       *Policy
		now     string
		dollars int64
		want    string
	}{
		{p, "2026-11-29T10:00:00Z", 8, "allowed 2"},
		{p, "2026-11-29T10:00:01Z", 4, "denied 2"},
		{q, "2026-11-29T10:00:02Z", 4, "allowed 8"}, // $12 of $20
		{q, "2026-11-29T11:59:59Z", 3, "allowed 5"}, // $15
		{q, "2026-11-29T12:00:00Z", 1, "denied 0"},  // $15 of $10, without a reload
		{q, "2026-11-30T00:00:00Z", 1, "allowed 9"}, // the next day
	} {
		outcome, remaining := check(step.p, step.now, step.dollars)
		if got := fmt.Sprintf("%s %d", outcome, remaining); got != step.want {
			t.Errorf("$%d at %s: %s, want %s", step.dollars, step.now, got, step.want)
		}
	}
}

func TestBadOverrides(t *testing.T) {
	for _, test := range []struct{ override, want string }{
		{"{ key: a, limit: tokns, value: 1, until: 2026-12-24 }", `p.yaml:15:22: tier free of a has no limit "tokns"; did you mean "tokens"?`},
		{"{ key: a, limit: extra, value: 1, until: 2026-12-24 }", `p.yaml:15:22: tier free of a has no limit "extra"`},
		{"{ key: 'a/*', limit: tokens, value: 1, until: 2026-12-24 }", `p.yaml:15:12: an override is for one key, got the pattern "a/*"`},
		{"{ key: a//b, limit: tokens, value: 1, until: 2026-12-24 }", `p.yaml:15:12: key segments must not be empty`},
		{"{ key: a, limit: tokens, value: $1, until: 2026-12-24 }", `p.yaml:15:37: the value for tokens of a must be a number without $`},
		{"{ key: a, limit: spend, value: 1, until: 2026-12-24 }", `p.yaml:15:36: the value for spend of a must be an amount of money`},
		{"{ key: a, limit: tokens, value: 5/fortnight, until: 2026-12-24 }", `p.yaml:15:37: the value for tokens of a: window must be second`},
		{"{ key: a, limit: tokens, value: 5/month, until: 2026-12-24 }", `p.yaml:15:37: the value for tokens of a cannot be used for this limit of tier berlin: a month has no fixed length`},
		{"{ key: a, limit: concurrent, value: 5/min, until: 2026-12-24 }", `p.yaml:15:41: the value for concurrent of a cannot be used for this limit of tier free: takes no window`},
		{"{ key: a, limit: tokens, value: 1/1us, until: 2026-12-24 }", `cannot be used for this limit of tier berlin: window: must be between 1ms and 400 days`},
		{"{ key: a, limit: tokens, value: 1, until: tomorrow }", `p.yaml:15:47: until must be a date such as 2026-12-24, at whose beginning it ends, or a time such as 2026-12-24T18:00:00Z, got "tomorrow"`},
		{"{ key: a, limit: tokens, value: 1, until: 9999-12-31 }", `p.yaml:15:47: until must be in the years 2000 to 2200`},
		{"{ key: a, limit: tokens, value: 1 }", `p.yaml:15:5: an override needs an until, such as 2026-12-24; for good, assign a tier with that limit`},
		{"{ key: a, limit: tokens, until: 2026-12-24 }", `p.yaml:15:5: an override needs a value`},
		{"{ key: a, limit: tokens, value: 1, until: 2026-12-24, why: x }", `p.yaml:15:59: unknown key "why" in an override`},
		{"raise a tokens to 5/min", `p.yaml:15:5: an override must end, as in raise acme/alice tokens to 500_000/min until 2026-12-24, got "raise a tokens to 5/min"`},
		{"raise a tokens 5/min until 2027-01-01", `p.yaml:15:5: an override must be a sentence such as raise acme/alice tokens to 500_000/min until 2026-12-24 because REASON, got "raise a tokens 5/min until 2027-01-01"`},
		{"raise a tokens to 5/min until 2026-12-24\n  - lower a tokens to 4/min until 2026-12-25", `p.yaml:16:5: tokens of a is overridden twice, first at p.yaml:15:5`},
		{"[1]", "p.yaml:15:5: an override must be a mapping, got a list"},
	} {
		src := overrideTiers + "overrides:\n  - " + test.override + "\n"
		_, err := Parse("p.yaml", []byte(src), limiter.NewCatalog())
		var problems Problems
		if !errors.As(err, &problems) || len(problems) != 1 || !strings.Contains(problems[0].String(), test.want) {
			t.Errorf("%s: %v\nwant %s", test.override, err, test.want)
		}
	}
}

// TestOverridesFollowTheirTiers: whatever takes the limit of an override away is refused.
func TestOverridesFollowTheirTiers(t *testing.T) {
	rows := Place{Source: "table overrides"}
	hash := HashAPIKey("sk")
	p := mustParse(t, overrideTiers+"assign: [{ key: x, tier: named }, { key: 'y/*', tier: named }]\n")
	p, err := p.With(Delta{
		APIKeys: []APIKey{{Hash: hash, Key: "z", Tier: "named"}},
		Overrides: []Override{
			{"x", "extra", "70", "2026-12-24", "", rows}, {"y/1", "extra", "71", "2026-12-24", "", rows}, {"z", "extra", "72", "2026-12-24", "", rows},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"x": "70/1m", "y/1": "71/1m"} {
		if got := limitText(t, p, "2026-11-29T00:00:00Z", key, "", "", "extra"); got != want {
			t.Errorf("extra of %s = %s, want %s", key, got, want)
		}
	}
	if got := limitText(t, p, "2026-11-29T00:00:00Z", "z", "named", "", "extra"); got != "72/1m" {
		t.Errorf("extra of z with the tier of its API key = %s, want 72/1m", got)
	}
	for _, test := range []struct {
		delta Delta
		want  string
	}{
		{Delta{Unassign: []string{"x"}}, `table overrides: tier free of x has no limit "extra"`},
		{Delta{Assign: []Assignment{{Key: "x", Tier: "free"}}}, `table overrides: tier free of x has no limit "extra"`},
		{Delta{Unassign: []string{"y/*"}}, `table overrides: tier free of y/1 has no limit "extra"`},
		{Delta{RemoveAPIKeys: []string{hash}}, `table overrides: tier free of z has no limit "extra"`},
		{Delta{APIKeys: []APIKey{{Hash: hash, Key: "z"}}}, `table overrides: tier free of z has no limit "extra"`},
	} {
		if _, err := p.With(test.delta); err == nil || err.Error() != test.want {
			t.Errorf("With(%+v) = %v, want %s", test.delta, err, test.want)
		}
	}
	q, err := p.With(Delta{Unassign: []string{"x"}, RemoveOverrides: [][2]string{{"x", "extra"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(Diff(p, q), "; "); got != "assign x removed: named; override x removed: extra 70 until 2026-12-24" || q.Overrides() != 2 {
		t.Errorf("Diff = %s with %d overrides", got, q.Overrides())
	}
	same, err := q.With(Delta{Assign: []Assignment{{Key: "x", Tier: "named"}}, Overrides: []Override{{"x", "extra", "7_0", "2026-12-24", "", rows}}})
	if err != nil || same.Digest() != p.Digest() {
		t.Errorf("the same content again: %v, digest %s, want %s", err, same.Digest(), p.Digest())
	}
}
