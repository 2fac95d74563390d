// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

const apiKeyTiers = "tiers: { free: { requests: 1/min }, gold: { requests: 9/min } }\ndefault_tier: free\n"

func TestAPIKeys(t *testing.T) {
	p := mustParse(t, apiKeyTiers+fmt.Sprintf(`api_keys:
  - { hash: %q, key: acme/alice, tier: gold }
  - { hash: %q, key: "globex/ bob" }
`, HashAPIKey("sk-alice"), HashAPIKey("sk-bob")))
	if got := p.APIKeys(); got != 2 {
		t.Errorf("APIKeys() = %d, want 2", got)
	}
	for presented, want := range map[string]string{
		"sk-alice":             "acme/alice gold true",
		"sk-bob":               "globex/ bob  true",
		"sk-alice ":            "  false",
		"":                     "  false",
		"acme/alice":           "  false",
		HashAPIKey("sk-alice"): "  false", // whoever reads the file can't use it
	} {
		key, tier, ok := p.APIKeyOwner(presented)
		if got := fmt.Sprintf("%s %s %t", key, tier, ok); got != want {
			t.Errorf("APIKeyOwner(%q) = %q, want %q", presented, got, want)
		}
	}
	if _, _, ok := mustParse(t, apiKeyTiers).APIKeyOwner("sk-alice"); ok {
		t.Error("APIKeyOwner of a policy without API keys = true, want false")
	}
}

// The hash of 32 zero bytes is what an absent entry looks like.
func TestAbsentAPIKeyMatchesNothing(t *testing.T) {
	if k, ok := (&rows{}).findAPIKey(sha256Sum{}); ok {
		t.Errorf("findAPIKey(zeros) = %q, want nobody", k.key)
	}
}

func TestAPIKeysInDigestAndDiff(t *testing.T) {
	with := func(secret, rest string) *Policy {
		return mustParse(t, apiKeyTiers+fmt.Sprintf("api_keys: [{ hash: %q, %s }]\n", HashAPIKey(secret), rest))
	}
	none, alice := mustParse(t, apiKeyTiers), with("sk-alice", "key: acme/alice")
	versions := map[string]bool{}
	for _, p := range []*Policy{none, alice, with("sk-alice2", "key: acme/alice"), with("sk-alice", "key: acme/bob"), with("sk-alice", "key: acme/alice, tier: gold")} {
		versions[p.Digest()] = true
	}
	if len(versions) != 5 {
		t.Errorf("5 policies have %d digests, want 5", len(versions))
	}
	shown := HashAPIKey("sk-alice")[:diffHashLen]
	for _, test := range []struct {
		from, to *Policy
		want     []string
	}{
		{none, alice, []string{"api_key " + shown + " added: acme/alice"}},
		{alice, none, []string{"api_key " + shown + " removed: acme/alice"}},
		{alice, with("sk-alice", "key: acme/bob, tier: gold"), []string{"api_key " + shown + ":  acme/alice -> acme/bob, tier gold"}},
	} {
		got := Diff(test.from, test.to)
		for i := range got {
			got[i] = strings.ReplaceAll(got[i], ":  ", ": ")
		}
		want := strings.ReplaceAll(test.want[0], ":  ", ": ")
		if !slices.Equal(got, []string{want}) {
			t.Errorf("Diff = %q, want %q", got, want)
		}
		if full := HashAPIKey("sk-alice"); strings.Contains(strings.Join(got, "\n"), full) {
			t.Errorf("Diff = %q, want no hash in full", got)
		}
	}
}

// A secret that is pasted anywhere under api_keys is in no message and no excerpt.
func TestNoMessageHasAnAPIKey(t *testing.T) {
	const secret = "sk-live-Ab3"
	for name, section := range map[string]string{
		"as hash":          "api_keys:\n- { hash: SECRET, key: a }",
		"with prefix":      "api_keys:\n- { hash: 'sha256:SECRET', key: a }",
		"as item":          "api_keys: [SECRET]",
		"as list":          "api_keys: SECRET",
		"as map":           "api_keys: { SECRET: a }",
		"as field":         "api_keys: [{ SECRET: a }]",
		"twice":            "api_keys: [{ SECRET: a, SECRET: b }]",
		"as tier":          fmt.Sprintf("api_keys: [{ hash: %q, key: a, tier: SECRET }]", HashAPIKey(secret)),
		"as wrong tier":    fmt.Sprintf("api_keys: [{ hash: %q, key: a, tier: 'SECRET!' }]", HashAPIKey(secret)),
		"as key":           fmt.Sprintf("api_keys: [{ hash: %q, key: SECRET }]", HashAPIKey(secret)),
		"as bad key":       "api_keys: [{ hash: x, key: 'SECRET//' }]",
		"beside a problem": "api_keys:\n- { hash: 'SECRET', key: 'a//b' }",
		"under it":         "api_keys:\n- key: a//b\n  # SECRET\n  hash: SECRET",
		"not YAML":         "api_keys:\n- { hash: SECRET, key: a\n",
		"not YAML either":  "api_keys:\n  - hash: SECRET\n - key: a",
		"a second section": "api_keys: []\napi_keys: [{ hash: SECRET, key: a }]",
		"on one line":      "zzz: { x: 1 }\n'api_keys': [{ hash: SECRET, key: a }]",
	} {
		_, err := Parse("p.yaml", []byte(apiKeyTiers+strings.ReplaceAll(section, "SECRET", secret)), limiter.NewCatalog())
		if err == nil {
			t.Errorf("%s: Parse = nil, want a problem", name)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: Parse = %v\nwant no %s in it", name, err, secret)
		}
		var problems Problems
		if !errors.As(err, &problems) || problems[0].Line < 3 {
			t.Errorf("%s: Parse = %v, want a problem with its line", name, err)
		}
	}
}

func TestLinesAfterAPIKeysAreShown(t *testing.T) {
	_, err := Parse("p.yaml", []byte("api_keys:\n- { hash: x, key: a }\n"+apiKeyTiers+"prises: 1\n"), limiter.NewCatalog())
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 2 || problems[0].Excerpt != "" || problems[1].Excerpt != "prises: 1" {
		t.Errorf("Parse = %v, want an excerpt of the second problem only", err)
	}
}

func FuzzAPIKeysKeepTheirSecret(f *testing.F) {
	f.Add("- { hash: SECRET, key: a }")
	f.Add("SECRET: [SECRET")
	f.Fuzz(func(t *testing.T, section string) {
		const secret = "sk-live-Ab3"
		if strings.ContainsAny(section, "&*|>!%\r\u0085\u2028\u2029") {
			t.Skip() // anchors and tags have names, and at the margin begins another section
		}
		section = "api_keys:\n  " + strings.ReplaceAll(strings.ReplaceAll(section, "SECRET", secret), "\n", "\n  ")
		_, err := Parse("p.yaml", []byte(apiKeyTiers+section), limiter.NewCatalog())
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("Parse = %v", err)
		}
	})
}
