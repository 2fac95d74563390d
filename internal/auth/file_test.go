// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/internal/yamldoc"
)

func parseText(text string) (*Callers, error) {
	return Parse([]yamldoc.File{{Name: "auth.yaml", Source: []byte(text)}}, nil)
}

const (
	hashA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hashB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// All problems of a file are reported at once, with their positions.
func TestParseErrors(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"nothing":           {"", []string{"auth.yaml:1:1: callers must list at least one caller"}},
		"no callers":        {"callers: []", []string{"callers must list at least one caller"}},
		"unknown key":       {"caller: []", []string{`auth.yaml:1:1: unknown key "caller" in the file; did you mean "callers"?`}},
		"a text":            {"callers: x", []string{"auth.yaml:1:10: callers must be a list"}},
		"an empty caller":   {"callers: [{}]", []string{"1:11: a caller must have a name", "1:11: a caller must have scopes", "1:11: a caller must have tokens, certificates or claims"}},
		"no proof":          {"callers: [{name: a, scopes: [call]}]", []string{"must have tokens, certificates or claims"}},
		"unknown scope":     {"callers: [{name: a, scopes: [cal], tokens: [" + hashA + "]}]", []string{`1:30: a scope must be one of call, read, admin, metrics, got "cal"; did you mean "call"?`}},
		"no scopes":         {"callers: [{name: a, scopes: [], tokens: [" + hashA + "]}]", []string{"scopes must have at least one of"}},
		"name":              {"callers: [{name: a b, scopes: [call], tokens: [" + hashA + "]}]", []string{"name must be 1 to 64 letters"}},
		"two names":         {"callers:\n- {name: a, scopes: [call], tokens: [" + hashA + "]}\n- {name: a, scopes: [call], tokens: [" + hashB + "]}", []string{"3:10: caller a is listed twice, first at auth.yaml:2:10"}},
		"two hashes":        {"callers:\n- {name: a, scopes: [call], tokens: [" + hashA + "]}\n- {name: b, scopes: [call], tokens: [" + hashA + "]}", []string{"3:38: this hash is listed twice, first at auth.yaml:2:38"}},
		"two certificates":  {"callers:\n- {name: a, scopes: [call], certificates: [A.example]}\n- {name: b, scopes: [call], certificates: [a.Example]}", []string{"3:44: this certificate is listed twice"}},
		"certificate":       {"callers: [{name: a, scopes: [call], certificates: ['*.example', 'spiffe://', 'cn:', 'a b']}]", []string{"1:52: a certificate must be a DNS name", "1:65:", "1:78:", "1:85:"}},
		"roots for nothing": {"callers: [{name: a, scopes: [read], roots: [x], tokens: [" + hashA + "]}]", []string{"roots restrict the scope call"}},
		"no roots":          {"callers: [{name: a, scopes: [call], roots: [], tokens: [" + hashA + "]}]", []string{"roots must have at least one pattern"}},
		"root":              {"callers: [{name: a, scopes: [call], roots: [a/b, ''], tokens: [" + hashA + "]}]", []string{"1:45: a root must be the first segment of keys", "1:50:"}},
		"claims":            {"callers: [{name: a, scopes: [call], claims: {sub: x}}]", []string{"claims need the section jwt"}},
		"empty claims":      {"callers: [{name: a, scopes: [call], claims: {}}]\njwt: {keys: none}", []string{"claims must have at least one claim", "2:13: the keys for JWTs cannot be read: none"}},
		"claim":             {"callers: [{name: a, scopes: [call], claims: {sub: {a: b}}}]\njwt: {keys: none}", []string{"the claim sub must be a list"}},
		"jwt":               {"callers: [{name: a, scopes: [call], tokens: [" + hashA + "]}]\njwt: {issuer: x}", []string{"2:1: jwt must have either keys"}},
		"both":              {"callers: [{name: a, scopes: [call], tokens: [" + hashA + "]}]\njwt: {keys: a, secret_file: b}", []string{"2:1: jwt must have either keys"}},
		"not yaml":          {"callers: [", []string{"is not valid YAML"}},
	} {
		_, err := parseText(test.text)
		if _, ok := errors.AsType[yamldoc.Problems](err); !ok {
			t.Errorf("%s: Parse = %v, want problems", name, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Parse = %v, want %q in it", name, err, want)
			}
		}
	}
}

// What is not a list is one problem, not also a list without elements.
func TestWhatIsNoListIsOneProblem(t *testing.T) {
	for _, field := range []string{"scopes: call", "roots: acme", "certificates: a", "tokens: x"} {
		text := "callers: [{name: a, scopes: [call], tokens: [" + hashA + "]}, {name: b, scopes: [call], tokens: [" + hashB + "]}]"
		name, _, _ := strings.Cut(field, ":")
		switch name {
		case "scopes", "tokens": // in place of what is there
			text = strings.Replace(text, name+": ["+map[string]string{"scopes": "call", "tokens": hashA}[name]+"]", field, 1)
		default:
			text = strings.Replace(text, "name: a,", "name: a, "+field+",", 1)
		}
		_, err := parseText(text)
		if err == nil || strings.Count(err.Error(), "auth.yaml:") != 1 || !strings.Contains(err.Error(), name+" must be a list") {
			t.Errorf("Parse with %s = %v, want one problem: it must be a list", field, err)
		}
	}
}

// Who writes a token in place of its hash does not find it in a log.
func TestProblemsQuoteNoToken(t *testing.T) {
	token, hash := NewToken()
	for _, text := range []string{
		"callers:\n- name: a\n  scopes: [call]\n  tokens: [" + token + "]\n",
		"callers:\n- name: a\n  scopes: [call]\n  tokens: " + token + "\n",
		"callers:\n- name: a\n  scopes: [call]\n  tokens: {" + token + ": " + token + "}\n",
		"callers:\n- name: a\n  tokens:\n  - " + token + "\n  - " + hash.String() + "\n  - " + hash.String() + "\n",
	} {
		_, err := parseText(text)
		if err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), hash.String()) {
			t.Errorf("Parse(%s) = %v, want problems without the token", text, err)
		}
	}
}

func TestFilesOfADirectory(t *testing.T) {
	c, err := Parse([]yamldoc.File{
		{Name: "a.yaml", Source: []byte("callers: [{name: a, scopes: [call], tokens: [" + hashA + "]}]")},
		{Name: "b.yaml", Source: []byte("callers: [{name: b, scopes: [read], tokens: [" + hashB + "]}]")},
	}, nil)
	if err != nil || c.Len() != 2 || c.tokens.Len() != 2 {
		t.Errorf("Parse of two files = %v, %v, want two callers", c, err)
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, root string
		want          bool
	}{
		{"acme", "acme", true},
		{"acme", "acme2", false},
		{"acme", "acm", false},
		{"acme", "", false},
		{"team-*", "team-", true},
		{"team-*", "team-a", true},
		{"team-*", "team", false},
		{"team-*", "xteam-a", false},
		{"*", "", true},
		{"*", "x", true},
		{"*-prod", "a-prod", true},
		{"*-prod", "a-prod-b", false},
		{"*-prod", "-prod-prod", true},
		{"a*b*c", "abc", true},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "acb", false},
		{"**", "x", true},
		{"a*", "b", false},
		{"a*b", "a*b", true},
		{"a?c", "abc", false},
		{"[a]", "a", false},
	} {
		if got := pattern(test.pattern).match(test.root); got != test.want {
			t.Errorf("pattern %s matches %q = %t, want %t", test.pattern, test.root, got, test.want)
		}
	}
}

// What a file says decides about keys exactly as it reads, whatever else is in it.
func FuzzParse(f *testing.F) {
	f.Add("callers: [{name: a, scopes: [call], roots: [x, 'team-*'], tokens: [" + hashA + "]}]")
	f.Add("callers:\n- name: a\n  scopes: [call, read, admin, metrics]\n  certificates: [a.example, 'spiffe://x/y', 'cn:z']\n")
	f.Add("callers: [{name: a, scopes: [call], claims: {sub: [a, b], aud: c}}]\njwt: {keys: x, issuer: y}")
	f.Add("a: &a [*a]")
	f.Add("callers: &c\n- {name: a, scopes: [call], tokens: [x]}\njwt: *c")
	f.Add("<<: {callers: []}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseText(text)
		if err != nil {
			if _, ok := errors.AsType[yamldoc.Problems](err); !ok || c != nil {
				t.Fatalf("Parse = %v, %v, want only problems", c, err)
			}
			return
		}
		if c.Len() == 0 {
			t.Fatal("Parse accepts a file without callers")
		}
		for _, who := range c.list {
			if who.name == "" || who.scopes == 0 {
				t.Fatalf("Parse accepts a caller without name or scopes: %+v", who)
			}
			if len(who.roots) > 0 && who.scopes&Call == 0 {
				t.Fatalf("Parse accepts roots without call: %+v", who)
			}
		}
	})
}

func TestMissingKeys(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "auth.yaml")
	text := "callers: [{name: a, scopes: [call], claims: {sub: x}}]\njwt: {secret_file: secret}\n"
	parse := func() error {
		_, err := Parse([]yamldoc.File{{Name: path, Source: []byte(text)}}, nil)
		return err
	}
	if err := parse(); err == nil || !strings.Contains(err.Error(), ":2:20: the keys for JWTs cannot be read: "+filepath.Join(dir, "secret")) {
		t.Errorf("Parse = %v, want that the secret is missing", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("hunter2hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := parse(); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Parse = %v, want that the secret is too short, without it", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := parse(); err != nil {
		t.Errorf("Parse = %v", err)
	}
}

func TestNewToken(t *testing.T) {
	a, hash := NewToken()
	b, _ := NewToken()
	if a == b || len(a) < 22 || secret.Of(a) != hash {
		t.Errorf("NewToken = %q with hash %s, and %q", a, hash, b)
	}
}
