// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

const editTiers = `tiers:
  free: { requests: 10/min, tokens: 1000/min, concurrent: 2 }
  paid: { requests: 60/min, tokens: 100_000/min, spend: $10/day }
  team: { zone: Europe/Berlin, tokens: 50_000/day }
default_tier: free
`

// source is what a source of single entries has.
type source struct {
	assign  map[string]string    // tier by key
	apiKeys map[string][2]string // key and tier by API key

	overrides map[string]string // value by key, of the limit tokens
}

// yaml returns the whole as a file.
func (s source) yaml() string {
	var b strings.Builder
	b.WriteString(editTiers)
	if len(s.assign) > 0 {
		b.WriteString("assign:\n")
	}
	for key, tier := range s.assign {
		fmt.Fprintf(&b, "  - { key: %q, tier: %s }\n", key, tier)
	}
	if len(s.apiKeys) > 0 {
		b.WriteString("api_keys:\n")
	}
	for k, v := range s.apiKeys {
		fmt.Fprintf(&b, "  - { hash: %q, key: %s, tier: %q }\n", HashAPIKey(k), v[0], v[1])
	}
	if len(s.overrides) > 0 {
		b.WriteString("overrides:\n")
	}
	for key, value := range s.overrides {
		fmt.Fprintf(&b, "  - { key: %s, limit: tokens, value: %s, until: 2026-12-24 }\n", key, value)
	}
	return strings.ReplaceAll(b.String(), `, tier: ""`, "")
}

// TestEditsAreTheWhole compares policies after random edits with those that are parsed of
// all entries anew: what they resolve to, their digests and their differences.
func TestEditsAreTheWhole(t *testing.T) {
	keys := []string{"a", "a/b", "a/c", "d", "d/e/f", "a/*", "*", "*/b", "d/*/f", "d/*"}
	tiers := []string{"free", "paid", "team"}
	rapid.Check(t, func(t *rapid.T) {
		catalog := limiter.NewCatalog()
		s := source{map[string]string{}, map[string][2]string{}, map[string]string{}}
		p, err := Parse("p.yaml", []byte(s.yaml()), catalog)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 10).Draw(t, "edits") {
			var d Delta
			for range rapid.IntRange(0, 5).Draw(t, "changes") {
				key := rapid.SampledFrom(keys).Draw(t, "key")
				used := slices.ContainsFunc(d.Assign, func(a Assignment) bool { return a.Key == key }) || slices.Contains(d.Unassign, key)
				apiKey := "sk-" + key
				usedToo := slices.ContainsFunc(d.APIKeys, func(k APIKey) bool { return k.Hash == HashAPIKey(apiKey) })
				tier := rapid.SampledFrom(tiers).Draw(t, "tier")
				overridden := strings.ReplaceAll(key, "*", "x")
				usedOverride := slices.ContainsFunc(d.Overrides, func(o Override) bool { return o.Key == overridden })
				switch rapid.IntRange(0, 5).Draw(t, "change") {
				case 0:
					if !used {
						d.Unassign = append(d.Unassign, key)
						delete(s.assign, key)
					}
				case 1:
					if !used {
						d.Assign = append(d.Assign, Assignment{Key: key, Tier: tier, At: Place{Source: "rows"}})
						s.assign[key] = tier
					}
				case 2:
					if !usedToo {
						k := APIKey{Hash: HashAPIKey(apiKey), Key: "x/y", Tier: rapid.SampledFrom([]string{"", tier}).Draw(t, "tier of API key")}
						d.APIKeys = append(d.APIKeys, k)
						s.apiKeys[apiKey] = [2]string{k.Key, k.Tier}
					}
				case 4:
					if !usedOverride {
						value := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "value"))
						d.Overrides = append(d.Overrides, Override{Key: overridden, Limit: "tokens", Value: value, Until: "2026-12-24"})
						s.overrides[overridden] = value
					}
				case 5:
					if !usedOverride {
						d.RemoveOverrides = append(d.RemoveOverrides, [2]string{overridden, "tokens"})
						delete(s.overrides, overridden)
					}
				case 3:
					if !usedToo {
						d.RemoveAPIKeys = append(d.RemoveAPIKeys, HashAPIKey(apiKey))
						delete(s.apiKeys, apiKey)
					}
				}
			}
			old, before := p, p.Digest()
			if p, err = p.With(d); err != nil {
				t.Fatalf("With(%+v) = %v", d, err)
			}
			if old.Digest() != before {
				t.Fatal("With changed the old policy")
			}
			whole, err := Parse("p.yaml", []byte(s.yaml()), catalog)
			if err != nil {
				t.Fatal(err)
			}
			checkEqual(t, p, whole)
			if (len(Diff(old, p)) == 0) != (old.Digest() == p.Digest()) {
				t.Fatalf("Diff = %v, but digests %s and %s", Diff(old, p), old.Digest(), p.Digest())
			}
			if got, want := Diff(old, p), Diff(old, whole); !slices.Equal(got, want) {
				t.Fatalf("Diff = %v, want %v", got, want)
			}
		}
	})
}

// checkEqual checks that two policies against one catalog decide alike.
func checkEqual(t interface {
	Fatalf(string, ...any)
	Helper()
}, got, want *Policy,
) {
	t.Helper()
	if got.Digest() != want.Digest() || got.Version() != want.Version() {
		t.Fatalf("digest %s, want %s: %v", got.Digest(), want.Digest(), Diff(got, want))
	}
	for _, key := range []string{"a", "a/b", "a/c", "a/x", "d", "d/e", "d/e/f", "d/x/f", "z", "z/b"} {
		var g, w limiter.Plan
		if err := errors.Join(got.Resolve(limiter.Time{}, key, "", "m", &g), want.Resolve(limiter.Time{}, key, "", "m", &w)); err != nil {
			t.Fatalf("Resolve(%s) = %v", key, err)
		}
		if resolved, wanted := planText(key, &g), planText(key, &w); resolved != wanted {
			t.Fatalf("Resolve(%s) = %s, want %s", key, resolved, wanted)
		}
		gk, gt, gok := got.APIKeyOwner("sk-" + key)
		wk, wt, wok := want.APIKeyOwner("sk-" + key)
		if gk != wk || gt != wt || gok != wok {
			t.Fatalf("APIKeyOwner(sk-%s) = %s %s %t, want %s %s %t", key, gk, gt, gok, wk, wt, wok)
		}
	}
}

func planText(key string, p *limiter.Plan) string {
	s := p.Tier
	for _, l := range p.Levels[:p.Count] {
		s += fmt.Sprintf("\n%s: %s%s%s", key[:l.End], l.Tier, setText("", l.Limits), setText("model: ", l.Model))
	}
	return s
}

// TestBadEditsChangeNothing checks that an edit has the checks of a file, and names the
// entry.
func TestBadEditsChangeNothing(t *testing.T) {
	at := Place{Source: "table assignments"}
	p := mustParse(t, editTiers+"assign: [{ key: a, tier: paid }]\n")
	digest := p.Digest()
	many := Delta{}
	for i := range 257 {
		many.Assign = append(many.Assign, Assignment{fmt.Sprintf("a/*%03d", i), "free", at})
	}
	hash := HashAPIKey("sk")
	for _, test := range []struct {
		delta Delta
		want  string
	}{
		{Delta{Assign: []Assignment{{"b", "piad", at}}}, `table assignments: tier "piad" of key "b" is not defined; did you mean "paid"?`},
		{Delta{Assign: []Assignment{{"b//c", "paid", Place{"t.csv", 7, 3}}}}, `t.csv:7:3: key "b//c" has an empty segment: no key matches it`},
		{Delta{Assign: []Assignment{{"", "paid", at}}}, `table assignments: key must not be empty`},
		{Delta{Assign: []Assignment{{"b\n", "paid", at}}}, `table assignments: key must be printable, got "b\n"`},
		{Delta{Assign: []Assignment{{"b", "paid", at}, {"b", "free", at}}}, `table assignments: this rule never applies: the rule at table assignments has the same key "b"`},
		{many, `table assignments: assign: more than 256 patterns could match a name that begins with "a/"`},
		{Delta{APIKeys: []APIKey{{Hash: "sk", Key: "a", At: at}}}, "table assignments: hash must be sha256: and 64 hex digits"},
		{Delta{APIKeys: []APIKey{{Hash: hash, Key: "a//b", At: at}}}, "table assignments: key segments must not be empty"},
		{Delta{APIKeys: []APIKey{{Hash: hash, Key: "a", Tier: "piad", At: at}}}, `table assignments: tier is not defined; did you mean "paid"?`},
		{Delta{APIKeys: []APIKey{{Hash: hash, Key: "a/*", At: at}}}, "table assignments: key must be one key, not a pattern: "},
		{Delta{APIKeys: []APIKey{{Hash: hash, Key: "a", At: at}, {Hash: hash, Key: "b", At: at}}}, "table assignments: this hash is listed twice"},
		{Delta{RemoveAPIKeys: []string{"x"}}, "API keys to remove: hash must be sha256:"},
	} {
		q, err := p.With(test.delta)
		var problems Problems
		if q != nil || !errors.As(err, &problems) || len(problems) != 1 || !strings.HasPrefix(problems[0].String(), test.want) {
			t.Errorf("With = %v, want one problem: %s", err, test.want)
		}
	}
	if p.Digest() != digest || p.assign.count != 1 {
		t.Error("bad edits changed the policy")
	}
}

// TestSetBase replaces the files of a policy and keeps its entries.
func TestSetBase(t *testing.T) {
	catalog := limiter.NewCatalog()
	p, err := Parse("base.yaml", []byte(editTiers), catalog)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = p.With(Delta{Assign: []Assignment{{"a", "paid", Place{Source: "rows"}}, {"b/*", "team", Place{Source: "rows"}}}}); err != nil {
		t.Fatal(err)
	}
	change := func(base string, more ...func(*Edit)) (*Policy, error) {
		e := p.Edit()
		e.SetBase([]File{{Name: "tiers", Source: []byte(base)}})
		for _, do := range more {
			do(e)
		}
		return e.Policy()
	}
	more := strings.ReplaceAll(editTiers, "60/min", "70/min") + "prices: { '*': { input: 1, output: 1 } }\n"
	q, err := change(more)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := Parse("p.yaml", []byte(more+"assign: [{ key: a, tier: paid }, { key: 'b/*', tier: team }]\n"), catalog)
	if err != nil {
		t.Fatal(err)
	}
	checkEqual(t, q, whole)
	without := strings.ReplaceAll(editTiers, "  paid:", "  gold:")
	if _, err := change(without); err == nil || err.Error() != `rows: tier "paid" of key "a" is not defined` {
		t.Errorf("edit without a used tier = %v", err)
	}
	if q, err = change(without, func(e *Edit) { e.Unassign("a") }); err != nil {
		t.Errorf("edit that also removes what uses the tier = %v", err)
	} else if got := q.Tiers(); !slices.Equal(got, []string{"free", "gold", "team"}) {
		t.Errorf("tiers = %v", got)
	}
	if _, err := q.With(Delta{Assign: []Assignment{{"c", "paid", Place{Source: "rows"}}}}); err == nil {
		t.Error("a tier that is gone can be assigned")
	}
	if _, err := change(editTiers + "assign: [{ key: a, tier: free }]"); err == nil || !strings.Contains(err.Error(), "section assign cannot be") {
		t.Errorf("base with assign = %v", err)
	}
	if _, err := change("tiers: { free: { requests: 10 } }"); err == nil {
		t.Error("a bad base = nil, want a problem")
	}
}
