// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/bucketring/bucketring/limiter"
)

// TestScenarios replays testdata/scenarios. Commands:
//
//	policy [name=N]                      compile the input, "ok" or the problems
//	files                                compile "== name" sections together
//	resolve key=K [tier=T] [model=M]     the plan of a call
//	explain key=K [tier=T] [model=M] [input=N] [output=N]
//	diff from=N to=N
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		catalog := limiter.NewCatalog()
		named := map[string]*Policy{}
		var current *Policy
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "policy":
				p, err := Parse("policy.yaml", []byte(d.Input), catalog)
				if err != nil {
					return err.Error()
				}
				name := ""
				d.MaybeScanArgs(t, "name", &name)
				current, named[name] = p, p
				return "ok"
			case "files":
				p, err := ParseFiles(sections(d.Input), catalog)
				if err != nil {
					return err.Error()
				}
				current = p
				return "ok"
			case "resolve":
				return resolveText(current, callOf(t, d))
			case "explain":
				x, err := current.Explain(callOf(t, d))
				if err != nil {
					return err.Error()
				}
				return strings.ReplaceAll(x.String(), current.VersionString(), "VERSION")
			case "diff":
				var from, to string
				d.ScanArgs(t, "from", &from)
				d.ScanArgs(t, "to", &to)
				return strings.Join(Diff(named[from], named[to]), "\n")
			}
			t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			return ""
		})
	})
}

// sections splits "== name" blocks into files.
func sections(input string) (files []File) {
	for _, s := range strings.Split("\n"+input, "\n== ")[1:] {
		name, body, _ := strings.Cut(s, "\n")
		files = append(files, File{Name: name, Source: []byte(body)})
	}
	return files
}

func callOf(t *testing.T, d *datadriven.TestData) Call {
	c := Call{Requests: 1, OutputTokens: -1}
	d.ScanArgs(t, "key", &c.Key)
	d.MaybeScanArgs(t, "tier", &c.Tier)
	d.MaybeScanArgs(t, "model", &c.Model)
	d.MaybeScanArgs(t, "input", &c.InputTokens)
	d.MaybeScanArgs(t, "output", &c.OutputTokens)
	return c
}

func resolveText(p *Policy, c Call) string {
	var plan limiter.Plan
	if err := p.Resolve(limiter.Time{}, c.Key, c.Tier, c.Model, &plan); err != nil {
		return "error: " + err.Error()
	}
	var b strings.Builder
	for _, l := range plan.Levels[:plan.Count] {
		fmt.Fprintf(&b, "%s: %s (estimate %s)%s%s\n", c.Key[:l.End], l.Tier, estimateText(l.Estimate), setText("", l.Limits), setText("model: ", l.Model))
	}
	r := plan.Rates
	priced := "no price"
	if r.Priced {
		priced = price{
			r.InputPrice, r.CachedInputPrice, r.OutputPrice, r.CacheWritePrice, r.CacheWrite1hPrice,
			r.RequestFee, r.ImageFee, r.SearchFee, r.ServiceTiers,
		}.text()
	}
	fmt.Fprintf(&b, "tier %s; %s; weights %s; default output %d", plan.Tier, priced, weightsText(r.Weights), plan.DefaultOutput)
	if plan.BoundOutput {
		b.WriteString("; output bounded")
	}
	b.WriteString("\n")
	return b.String()
}

func setText(label string, s *limiter.LimitSet) string {
	if s == nil {
		return ""
	}
	text := "\n  " + label
	for i, l := range s.Limits() {
		if i > 0 {
			text += ", "
		}
		d := limitDef{Limit: l}
		text += d.title() + " " + d.text()
	}
	return text
}

func mustParse(tb testing.TB, src string) *Policy {
	tb.Helper()
	p, err := Parse("policy.yaml", []byte(src), limiter.NewCatalog())
	if err != nil {
		tb.Fatalf("Parse: %v", err)
	}
	return p
}

func TestExampleAndDefault(t *testing.T) {
	src, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, string(src))
	if got, want := p.Tiers(), []string{"acme-org", "free", "internal", "standard"}; !slices.Equal(got, want) {
		t.Errorf("Tiers() = %v, want %v", got, want)
	}
	for _, keys := range [][]string{rootKeys, tierKeys, limitKeys, tokenKinds, apiKeyKeys, overrideKeys} {
		for _, key := range keys {
			if !strings.Contains(string(src), key+":") && !strings.Contains(string(src), "dimension: "+key) {
				t.Errorf("testdata/example.yaml does not show %s", key)
			}
		}
	}
	d := Default(limiter.NewCatalog())
	if got, want := d.Tiers(), []string{"enterprise", "free", "standard"}; !slices.Equal(got, want) {
		t.Errorf("Default: Tiers() = %v, want %v", got, want)
	}
	if got := d.DefaultTier(); got != "free" {
		t.Errorf("Default: DefaultTier() = %q, want free", got)
	}
	var plan limiter.Plan
	if err := d.Resolve(limiter.Time{}, "acme/alice", "", "any-model", &plan); err != nil || !plan.Rates.Priced {
		t.Errorf("Default: Resolve = %v, priced %v, want a priced plan", err, plan.Rates.Priced)
	}
}

func TestDigestIgnoresLayout(t *testing.T) {
	a := mustParse(t, `
tiers:
  free: { requests: 10/min, tokens: 10_000/min, spend: $1/day }
  big: { limits: [{ dimension: tokens, limit: 5, window: 60s, burst: 5, models: [b, a] }] }
default_tier: free
assign: [{ key: a, tier: big }, { key: b, tier: free }]
prices: { "*": { input: 1.00, output: 3 } }
`)
	b, err := ParseFiles([]File{
		{Name: "2.yaml", Source: []byte("# later\nassign:\n- {tier: free, key: 'b'}\n- {tier: big, key: a}\nprices: {'*': {output: $3.000, cached_input: 1, input: 1}}\n")},
		{Name: "1.yaml", Source: []byte("default_tier: free\ndefault_output_tokens: 1024\ntiers:\n" +
			"  big: {limits: [{window: min, limit: 5, name: tokens, dimension: tokens, models: [a, b], mode: enforce}]}\n" +
			"  free: &f {zone: UTC, spend: $1.00/d, estimate: max, tokens: 10000/1m, requests: 10/minute}\n")},
	}, limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest() != b.Digest() {
		t.Errorf("Digest differs with the layout: %v", Diff(a, b))
	}
	if got := Diff(a, b); got != nil {
		t.Errorf("Diff = %v, want none", got)
	}
	if want := a.Digest()[:16]; a.VersionString() != want {
		t.Errorf("VersionString() = %s, want %s", a.VersionString(), want)
	}
	c := mustParse(t, "tiers: { free: { requests: 10/min, spend: $1.000001/day } }")
	if c.Digest() == a.Digest() {
		t.Error("Digest of another policy is the same")
	}
}

func TestDurability(t *testing.T) {
	parse := func(durability string) *Policy {
		return mustParse(t, "tiers: { free: { limits: [{ dimension: requests, limit: 5, window: 1m"+durability+" }] } }\ndefault_tier: free\n")
	}
	for durability, want := range map[string]bool{"": false, ", durability: sync": false, ", durability: async": true} {
		var plan limiter.Plan
		p := parse(durability)
		if err := p.Resolve(limiter.Time{}, "k", "", "", &plan); err != nil {
			t.Fatal(err)
		}
		if got := plan.Levels[0].Limits.Limits()[0].Async; got != want {
			t.Errorf("a limit with %q: Async = %v, want %v", durability, got, want)
		}
		if got := p.VersionString() != parse("").VersionString(); got != want {
			t.Errorf("a limit with %q is another policy: %v, want %v", durability, got, want)
		}
	}
}

// TestSlicesArePartOfThePolicy checks who may hold slices of a limit, and that it is another
// policy and is explained.
func TestSlicesArePartOfThePolicy(t *testing.T) {
	parse := func(slices string) *Policy {
		return mustParse(t, "tiers: { t: { limits: [{ dimension: requests, limit: 5, window: 1m"+slices+" }] } }\ndefault_tier: t\n")
	}
	for text, want := range map[string]limiter.Slices{"": limiter.SlicesNodes, ", slices: nodes": limiter.SlicesNodes, ", slices: clients": limiter.SlicesClients, ", slices: off": limiter.SlicesOff} {
		var plan limiter.Plan
		p := parse(text)
		if err := p.Resolve(limiter.Time{}, "k", "", "", &plan); err != nil {
			t.Fatal(err)
		}
		if got := plan.Levels[0].Limits.Limits()[0].Slices; got != want {
			t.Errorf("a limit with %q: Slices = %v, want %v", text, got, want)
		}
		x, err := p.Explain(Call{Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		other := want != limiter.SlicesNodes
		if got := x.Limits[0].Text; strings.Contains(got, "slices="+want.String()) != other {
			t.Errorf("a limit with %q is explained as %q", text, got)
		}
		if got := p.VersionString() != parse("").VersionString(); got != other {
			t.Errorf("a limit with %q is another policy: %v, want %v", text, got, other)
		}
	}
	if _, err := Parse("p.yaml", []byte("tiers: { t: { limits: [{ dimension: requests, limit: 5, window: 1m, slices: client }] } }\n"), limiter.NewCatalog()); err == nil || !strings.Contains(err.Error(), "slices must be one of nodes, clients, off") {
		t.Errorf("slices: client = %v, want an error that names the values", err)
	}
}

// TestShowIsPartOfThePolicy checks that a hidden limit is hidden in the engine, and that
// it is another policy and is explained.
func TestShowIsPartOfThePolicy(t *testing.T) {
	parse := func(show string) *Policy {
		t.Helper()
		p, err := Parse("p.yaml", []byte("tiers: { t: { limits: [{ dimension: spend, limit: $5, window: day"+show+" }] } }\ndefault_tier: t\n"), limiter.NewCatalog())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for show, want := range map[string]bool{"": false, ", show: true": false, ", show: false": true} {
		p := parse(show)
		x, err := p.Explain(Call{Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Limits[0]; got.Hidden != want || strings.Contains(got.Text, "show=false") != want {
			t.Errorf("a limit with %q is explained as hidden: %v, %q, want %v", show, got.Hidden, got.Text, want)
		}
		if got := p.VersionString() != parse("").VersionString(); got != want {
			t.Errorf("a limit with %q is another policy: %v, want %v", show, got, want)
		}
	}
	if _, err := Parse("p.yaml", []byte("tiers: { t: { limits: [{ dimension: spend, limit: $5, window: day, show: no }] } }\n"), limiter.NewCatalog()); err == nil || !strings.Contains(err.Error(), "show must be one of true, false") {
		t.Errorf("show: no = %v, want an error that names show", err)
	}
}

func TestDigestPinned(t *testing.T) {
	// Members of a cluster compare digests: another form of the canonical
	// content is a change to the wire.
	const want = "54e69cc153dee5ac"
	if got := Default(limiter.NewCatalog()).VersionString(); got != want {
		t.Errorf("Default().VersionString() = %s, want %s", got, want)
	}
}

func TestProblemsIsTheErrorType(t *testing.T) {
	_, err := Parse("p.yaml", []byte("tiers: { free: { token: 1/min } }"), limiter.NewCatalog())
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 1 {
		t.Fatalf("Parse error = %v (%T), want one Problem", err, err)
	}
	want := Problem{
		File: "p.yaml", Line: 1, Column: 18, Message: `unknown key "token" in tier free`, Suggestion: "tokens",
		Excerpt: "tiers: { free: { token: 1/min } }", Caret: 17,
	}
	if problems[0] != want {
		t.Errorf("problem = %+v, want %+v", problems[0], want)
	}
}

func TestResolveErrorsNameTheField(t *testing.T) {
	p := mustParse(t, "tiers: { free: { requests: 1/min } }\nassign: [{ key: known, tier: free }]")
	var plan limiter.Plan
	for _, test := range []struct{ key, tier, field, problem string }{
		{"a", "fre", "tier", `did you mean "free"?`},
		{"a", "zzz", "tier", "(free)"},
		{"a", "", "key", "no_tier"},
		{"a/b/c/d/e", "free", "key", "at most 4"},
	} {
		err := p.Resolve(limiter.Time{}, test.key, test.tier, "", &plan)
		var fe *limiter.FieldError
		if !errors.As(err, &fe) || fe.Field != test.field || !strings.Contains(fe.Problem, test.problem) {
			t.Errorf("Resolve(%q, %q) = %v, want a FieldError of %s with %q", test.key, test.tier, err, test.field, test.problem)
		}
	}
}

func TestResolveDoesNotAllocate(t *testing.T) {
	src, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, string(src))
	var plan limiter.Plan
	for _, c := range []Call{
		{Key: "acme/alice"},
		{Key: "acme/ci-7/x/y", Model: "llama-3-70b"},
		{Key: "someone/admin", Model: "unheard-of-preview"},
		{Key: "someone", Tier: "acme-org", Model: "experimental-1"},
	} {
		allocs := testing.AllocsPerRun(100, func() {
			if err := p.Resolve(limiter.Time{}, c.Key, c.Tier, c.Model, &plan); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("Resolve(%q, %q, %q) allocates %v times, want 0", c.Key, c.Tier, c.Model, allocs)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	p := Default(limiter.NewCatalog())
	var plan limiter.Plan
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Resolve(limiter.Time{}, "acme/alice", "free", "llama-3-70b", &plan); err != nil {
			b.Fatal(err)
		}
	}
}
