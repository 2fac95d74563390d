// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// pair is an entry as Envoy sends it.
type pair struct{ key, value string }

func (p pair) GetKey() string   { return p.key }
func (p pair) GetValue() string { return p.value }

// pairs parses "k=v k=v".
func pairs(text string) (list []pair) {
	for f := range strings.FieldsSeq(text) {
		k, v, _ := strings.Cut(f, "=")
		list = append(list, pair{k, v})
	}
	return list
}

func parse(t *testing.T, src string) *Config {
	t.Helper()
	c, err := Parse("rules.yaml", []byte(src))
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return c
}

const rules = `
domain: shop
descriptors:
  - key: user                   # any user
    rate_limit: { unit: minute, requests_per_unit: 1 }
  - key: user
    value: root
    rate_limit: { unlimited: true }
  - key: user
    value: bot-*
    rate_limit: { unit: minute, requests_per_unit: 2 }
    descriptors:
      - key: path
        value: /v1/*/items/*
        share_threshold: true
        rate_limit: { unit: hour, requests_per_unit: 3 }
      - key: path
        value: /v1/*
        rate_limit: { unit: hour, requests_per_unit: 4 }
  - key: user
    value: bot-a*
    rate_limit: { unit: minute, requests_per_unit: 5 }
  - key: file
    value: "*.pdf"
    share_threshold: true
    descriptors:
      - key: verb
        rate_limit: { unit: week, requests_per_unit: 6, unit_multiplier: 2 }
  - key: list
    descriptors:
      - { key: item, value: "1" }
      - key: item
        rate_limit: { unit: SECOND, requests_per_unit: 5_000_000_000, name: seven }
`

func TestFind(t *testing.T) {
	c := parse(t, rules)
	for _, test := range []struct {
		entries string
		want    int64 // 0: no rule, -1: unlimited
		shared  []string
	}{
		{"user=ann", 1, nil},
		{"user=", 1, nil},
		{"user=root", -1, nil},
		{"user=bot-7", 2, nil},
		{"user=bot-abc", 2, nil}, // the first wildcard of the file
		{"user=bot-a*", 5, nil},  // the exact value comes first
		{"user=bot-7 path=/v1/*/items/*", 3, []string{"", "/v1/*/items/*"}},
		{"user=Root", 1, nil}, // case counts
		{"user=bot-7 path=/v1/x/items/9", 3, []string{"", "/v1/*/items/*"}},
		{"user=bot-7 path=/v1/x/items", 4, nil},
		{"user=bot-7 path=/v2", 0, nil},
		{"user=bot-a path=/v1/x", 4, nil}, // the first match is used, though nothing is below it
		{"user=ann path=/v1/x", 0, nil},   // the match has no children
		{"file=a.pdf", 0, nil},            // no limit at this depth
		{"file=a.pdf verb=GET", 6, []string{"*.pdf", ""}},
		{"file=a.txt verb=GET", 0, nil},
		{"list=a item=1", 0, nil}, // the exact match has no limit
		{"list=a item=2", 5_000_000_000, nil},
		{"list=a item=2 more=3", 0, nil},
		{"other=1", 0, nil},
		{"", 0, nil},
	} {
		m := Find(c, "shop", pairs(test.entries))
		got := int64(0)
		if m.Rule != nil {
			if got = m.Rule.Amount; m.Rule.Unlimited {
				got = -1
			}
		}
		if got != test.want {
			t.Errorf("Find(%s) = %d, want %d", test.entries, got, test.want)
		}
		if d := cmp.Diff(test.shared, m.Shared); d != "" {
			t.Errorf("Find(%s) shares (-want +got):\n%s", test.entries, d)
		}
	}
	if m := Find(c, "ship", pairs("user=ann")); m.Rule != nil || c.Has("ship") {
		t.Errorf("Find in a domain that does not exist = %+v, want nothing", m.Rule)
	}
	if m := Find(nil, "shop", pairs("user=ann")); m.Rule != nil {
		t.Errorf("Find without rules = %+v, want nothing", m.Rule)
	}
}

func TestRules(t *testing.T) {
	c := parse(t, `
domain: d
descriptors:
  - key: a
    descriptors:
      - key: b
        value: x
        shadow_mode: true
        quota_mode: true
        detailed_metric: true
        value_to_metric: false
        metadata: { plan: gold, n: 3, on: true, off: null, list: [1, two], deep: { k: v }, bad: .nan }
        rate_limit:
          name: one
          unit: Month
          requests_per_unit: 10
          replaces: [{ name: two }, { name: three }]
`)
	if len(c.Rules()) != 1 || len(c.Domains()) != 1 {
		t.Fatalf("%d rules in %d domains, want 1 in 1", len(c.Rules()), len(c.Domains()))
	}
	r := *c.Rules()[0]
	meta := r.Metadata.AsMap()
	r.Metadata = nil
	want := Rule{
		Domain: "d", Path: "a.b", Name: "one", Replaces: []string{"two", "three"},
		Amount: 10, Window: limiter.Window{Unit: limiter.UnitMonth}, Shadow: true, Quota: true,
	}
	if d := cmp.Diff(want, r); d != "" {
		t.Errorf("rule (-want +got):\n%s", d)
	}
	wantMeta := map[string]any{
		"plan": "gold", "n": 3.0, "on": true, "off": nil, "list": []any{1.0, "two"}, "deep": map[string]any{"k": "v"}, "bad": ".nan",
	}
	if d := cmp.Diff(wantMeta, meta); d != "" {
		t.Errorf("metadata (-want +got):\n%s", d)
	}
}

// TestProblems: every problem of a file is reported at once, with its position.
func TestProblems(t *testing.T) {
	for _, test := range []struct{ name, src, want string }{
		{"nothing", "", "f:1:1: domain must not be empty"},
		{"no domain", "descriptors: []", "f:1:1: domain must not be empty"},
		{"many", `
domain: d
descriptor: []
descriptors:
  - key: a
    value: v
    unit: second
    rate_limt: {}
  - key: a
    value: v
    share_threshold: true
    rate_limit: { unit: minutes, requests_per_unit: -1, shadow_mode: true }
  - value: x
  - key: b
    rate_limit: {}
  - key: c
    shadow_mode: maybe
    rate_limit: { unit: day, unlimited: true }
  - key: d
    rate_limit: { name: n, unit: year, unit_multiplier: 101, requests_per_unit: 1, replaces: [{ name: n }, { nome: x }, {}] }
  - just text
`, `f:3:1: unknown key "descriptor" in a file of rate limits; did you mean "descriptors"?
f:7:5: unknown key "unit" in a descriptor: it belongs in rate_limit
f:8:5: unknown key "rate_limt" in a descriptor; did you mean "rate_limit"?
f:9:10: descriptor "a" with value "v" is defined twice here, first at f:5:10
f:11:22: share_threshold needs a value with a wildcard (*), got "v"
f:12:25: unit must be one of second, minute, hour, day, week, month, year, got "minutes"; did you mean "minute"?
f:12:53: requests_per_unit must be a whole number from 0 to 2^53, got "-1"
f:12:57: unknown key "shadow_mode" in rate_limit: it belongs beside rate_limit
f:13:5: key must not be empty
f:15:17: rate_limit needs requests_per_unit, or unlimited: true
f:15:17: rate_limit needs a unit: one of second, minute, hour, day, week, month, year
f:17:18: shadow_mode must be true or false, got "maybe"
f:18:25: a limit is unlimited or has a unit, not both
f:20:57: unit_multiplier: a window must be at most 100 years, which is 100 of unit year, got 101
f:20:94: a limit cannot replace itself, "n"
f:20:94: an element of replaces needs a name
f:20:110: unknown key "nome" in an element of replaces; did you mean "name"?
f:21:5: a descriptor must be a mapping, got "just text"`},
		{"octal", "domain: d\ndescriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: 010 } }]", `f:2:69: requests_per_unit must not begin with a zero, got "010"`},
		{"not YAML", "domain: [", "f:1:1: is not valid YAML"},
		{"too deep", "domain: d\ndescriptors: " + strings.Repeat("[{key: a, descriptors: ", 40) + strings.Repeat("}]", 40), "levels deep"},
	} {
		_, err := Parse("f", []byte(test.src))
		var ps Problems
		if !errors.As(err, &ps) {
			t.Errorf("%s: Parse = %v, want problems", test.name, err)
			continue
		}
		var got []string
		for _, p := range ps {
			got = append(got, p.String())
		}
		if text := strings.Join(got, "\n"); text != test.want && (len(got) != 1 || !strings.Contains(text, test.want)) {
			t.Errorf("%s (-want +got):\n%s", test.name, cmp.Diff(strings.Split(test.want, "\n"), got))
		}
	}
}

func TestDomainsAreUnique(t *testing.T) {
	_, err := ParseFiles([]File{{Name: "a.yaml", Source: []byte("domain: d\n")}, {Name: "b.yaml", Source: []byte("# the same\ndomain: d\n")}, {Name: "c.yaml", Source: []byte("domain: e\n")}})
	var ps Problems
	if !errors.As(err, &ps) || len(ps) != 1 || ps[0].String() != `b.yaml:2:9: domain "d" is defined twice, first at a.yaml:1:9` {
		t.Errorf("ParseFiles = %v, want the second domain d as the only problem", err)
	}
}

func TestCompile(t *testing.T) {
	good := Descriptor{Key: "k", Limit: &Limit{Window: limiter.Window{Unit: limiter.UnitHour}, Amount: 1}}
	c, err := Compile([]Domain{{Source: "resource r", Name: "d", Descriptors: []Descriptor{good}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := parse(t, "domain: d\ndescriptors:\n- key: k\n  rate_limit: { unit: hour, requests_per_unit: 1 }\n"); got.Digest() != c.Digest() {
		t.Errorf("the same rules from a file have digest %s, want %s", got.Digest(), c.Digest())
	}

	deep := Descriptor{Key: "k", Value: "v", Descriptors: []Descriptor{good, {Key: "x", Limit: &Limit{Window: limiter.Window{Unit: 9}, Amount: -7}}}}
	_, err = Compile([]Domain{
		{Source: `resource "r"`, Descriptors: []Descriptor{deep}},
		{Source: `resource "s"`, Name: "d", Descriptors: []Descriptor{deep, deep}},
		{Source: `resource "t"`, Name: "d"},
	})
	if err == nil {
		t.Fatal("Compile = nil, want problems")
	}
	want := strings.Split(`resource "r".domain: domain must not be empty
resource "s": descriptors[0].descriptors[1].rate_limit.requests_per_unit: requests_per_unit must be a whole number from 0 to 2^53, got -7
resource "s": descriptors[0].descriptors[1].rate_limit.unit: unit: must be second, minute, hour, day, week, month or year, got 9
resource "s": descriptors[1].key: descriptor "k" with value "v" is defined twice here, first at resource "s": descriptors[0]
resource "s": descriptors[1].descriptors[1].rate_limit.requests_per_unit: requests_per_unit must be a whole number from 0 to 2^53, got -7
resource "s": descriptors[1].descriptors[1].rate_limit.unit: unit: must be second, minute, hour, day, week, month or year, got 9
resource "t".domain: domain "d" is defined twice, first at resource "s"`, "\n")
	if d := cmp.Diff(want, strings.Split(err.Error(), "\n")); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
}

func TestDigest(t *testing.T) {
	a := []byte("domain: a\ndescriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: 1 } }]\n")
	b := []byte("domain: b\n")
	digest := func(files ...File) string {
		c, err := ParseFiles(files)
		if err != nil {
			t.Fatal(err)
		}
		return c.Digest()
	}
	same := digest(File{Name: "1", Source: a}, File{Name: "2", Source: b})
	if got := digest(File{Name: "x", Source: b}, File{Name: "y", Source: append([]byte("# said otherwise\n"), a...)}); got != same {
		t.Errorf("the digest depends on order, names or comments: %s and %s", got, same)
	}
	for _, change := range [][2]string{
		{"day", "week"},
		{"requests_per_unit: 1", "requests_per_unit: 2"},
		{"key: k", "key: j"},
		{"key: k", "key: k, shadow_mode: true"},
		{"key: k", "key: k, metadata: { x: 1 }"},
		{"day", "day, unit_multiplier: 2"},
		{"domain: a", "domain: c"},
	} {
		changed := strings.Replace(string(a), change[0], change[1], 1)
		if got := digest(File{Name: "1", Source: []byte(changed)}, File{Name: "2", Source: b}); got == same {
			t.Errorf("the digest does not change with %q", change[1])
		}
	}
}

// TestText: parsing the text of rules gives the same rules.
func TestText(t *testing.T) {
	more := `domain: "a: b"
descriptors:
  - key: 'quo"ted # key'
    value: "line\nend \x07 ü"
    quota_mode: true
    detailed_metric: true
    value_to_metric: true
    metadata: { plan: gold, deep: { list: [1, true, null, "x"] } }
    rate_limit: { unit: day, requests_per_unit: 0, replaces: [{ name: a }, { name: "b, c" }] }
  - key: soft
    shadow_mode: true
    rate_limit: { unlimited: true, requests_per_unit: 9, name: "yes" }
`
	c, err := ParseFiles([]File{{Name: "rules.yaml", Source: []byte(rules)}, {Name: "more.yaml", Source: []byte(more)}, {Name: "bare.yaml", Source: []byte("domain: bare\n")}})
	if err != nil {
		t.Fatal(err)
	}
	var files []File
	for doc := range strings.SplitSeq(c.Text(), "---\n") {
		files = append(files, File{Name: "text.yaml", Source: []byte(doc)})
	}
	again, err := ParseFiles(files)
	if err != nil {
		t.Fatalf("the text does not parse:\n%s\n%v", c.Text(), err)
	}
	if again.Digest() != c.Digest() || again.Text() != c.Text() || len(files) != 3 {
		t.Errorf("the text has other rules:\n%s\nand then\n%s", c.Text(), again.Text())
	}
	if got := (*Config)(nil).Text(); got != "" {
		t.Errorf("the text of no rules = %q, want none", got)
	}
}

// TestWildcardsMatchRegexps compares wildcards with regular expressions.
func TestWildcardsMatchRegexps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*]{0,4}\*[ab*]{0,4}`).Draw(t, "pattern")
		value := rapid.StringMatching(`[ab]{0,8}`).Draw(t, "value")
		parts := strings.Split(pattern, "*")
		w := wildcard{parts: parts}
		for i, p := range parts {
			parts[i] = regexp.QuoteMeta(p)
		}
		want := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(value)
		if got := w.matches(value); got != want {
			t.Fatalf("%q matches %q = %t, want %t", pattern, value, got, want)
		}
	})
}

// lookup is a simple implementation of Find over definitions.
func lookup(ds []Descriptor, entries []pair) *Descriptor {
	var found *Descriptor
	for _, ok := range []func(d *Descriptor) bool{
		func(d *Descriptor) bool { return d.Value != "" && d.Value == entries[0].value },
		func(d *Descriptor) bool {
			return strings.Contains(d.Value, "*") && regexp.MustCompile("^"+strings.ReplaceAll(d.Value, "*", ".*")+"$").MatchString(entries[0].value)
		},
		func(d *Descriptor) bool { return d.Value == "" },
	} {
		if i := slices.IndexFunc(ds, func(d Descriptor) bool { return d.Key == entries[0].key && ok(&d) }); i >= 0 {
			found = &ds[i]
			break
		}
	}
	if found == nil || len(entries) == 1 {
		return found
	}
	return lookup(found.Descriptors, entries[1:])
}

func TestFindMatchesLookup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := int64(0)
		var draw func(depth int) []Descriptor
		draw = func(depth int) (ds []Descriptor) {
			seen := map[entry]bool{}
			for range rapid.IntRange(0, 6).Draw(t, "descriptors") {
				d := Descriptor{
					Key:   rapid.SampledFrom([]string{"a", "b", "*"}).Draw(t, "key"),
					Value: rapid.SampledFrom([]string{"", "x", "y", "xy", "x*", "*y", "x*y", "*", "x*x*"}).Draw(t, "value"),
				}
				id := entry{d.Key, d.Value}
				if seen[id] {
					continue
				}
				seen[id] = true
				if rapid.Bool().Draw(t, "limited") {
					amount++
					d.Limit = &Limit{Window: limiter.Window{Unit: limiter.UnitHour}, Amount: amount}
				}
				if depth > 1 {
					d.Descriptors = draw(depth - 1)
				}
				ds = append(ds, d)
			}
			return ds
		}
		ds := draw(2)
		c, err := Compile([]Domain{{Source: "s", Name: "d", Descriptors: ds}})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			var entries []pair
			for range rapid.IntRange(1, 3).Draw(t, "entries") {
				entries = append(entries, pair{
					rapid.SampledFrom([]string{"a", "b", "*"}).Draw(t, "key"),
					rapid.SampledFrom([]string{"", "x", "y", "xy", "xzy", "x*", "*y", "x*y", "*", "z"}).Draw(t, "value"),
				})
			}
			got, want := int64(0), int64(0)
			if d := lookup(ds, entries); d != nil && d.Limit != nil {
				want = d.Limit.Amount
			}
			if r := Find(c, "d", entries).Rule; r != nil {
				got = r.Amount
			}
			if got != want {
				t.Fatalf("Find(%v) = %d, want %d in\n%s", entries, got, want, c.Text())
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(rules))
	f.Add([]byte("domain: d\ndescriptors: &x [{ key: a, descriptors: *x }]"))
	f.Add([]byte("domain: d\ndescriptors: [{ key: a, metadata: { <<: { b: .inf } } }]"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Parse("f", src)
		if (c == nil) == (err == nil) {
			t.Fatalf("Parse = %v, %v, want one of them", c, err)
		}
		if c != nil {
			again, err := Parse("text", []byte(c.Text()))
			if err != nil || again.Digest() != c.Digest() {
				t.Fatalf("Parse(Text) = %v, want the same rules from\n%s", err, c.Text())
			}
		}
		for _, r := range c.Rules() {
			if !r.Unlimited && (r.Amount < 0 || r.Amount > limiter.MaxAmount || r.Window.Validate() != nil) {
				t.Fatalf("Parse accepts limit %d per %v", r.Amount, r.Window)
			}
		}
	})
}

// TestWhatTheStockServiceTakes has files that envoyproxy/ratelimit reads in one way or
// another and that are problems here, as docs/envoy.md lists them.
func TestWhatTheStockServiceTakes(t *testing.T) {
	limit := func(text string) string {
		return "domain: d\ndescriptors: [{ key: k, rate_limit: { unit: minute, requests_per_unit: " + text + " } }]\n"
	}
	for src, want := range map[string]string{
		limit("5") + "---\n" + limit("6"):          "document",
		limit("5") + "domain: e\n":                 `has key "domain" twice`,
		limit("5, unit: hour"):                     `has key "unit" twice`,
		limit("0x10"):                              "must not begin with a zero",
		limit("1e3"):                               `requests_per_unit must be a whole number`,
		limit("2.5"):                               `requests_per_unit must be a whole number`,
		limit("010"):                               "must not begin with a zero",
		limit("-1"):                                `requests_per_unit must be a whole number`,
		limit("null"):                              "rate_limit needs requests_per_unit",
		"domain: " + strings.Repeat("d", 1025):     "domain must have at most 1024 bytes",
		"domain: d\ndescriptors: [{ value: v }]":   "key must not be empty",
		"domain: d\ndescriptors: { key: k }":       "must be a list",
		"# nothing but a comment":                  "domain must not be empty",
		"domain: d\ndescriptors: [[{ key: k }]]":   "must be a mapping",
		"domain: d\ndescriptors: [{ key: [k] }]\n": "must be a single value",
	} {
		if c, err := Parse("rules.yaml", []byte(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse of\n%s\n= %v with %d rules, want a problem that says %s", src, err, len(c.Rules()), want)
		}
	}
}
