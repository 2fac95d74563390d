// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/config"
)

const operating = "docs/operating.md"

func TestSettingsTable(t *testing.T) { checkTable(t, operating, "settings", config.Reference()) }

func TestProxySettingsTable(t *testing.T) {
	checkTable(t, "docs/proxy.md", "proxy settings", config.ProxyReference())
}

// TestMetricsTable compares the table with the metrics of a node, after calls that
// create all of them.
func TestMetricsTable(t *testing.T) {
	s := newSession(t, buildBinary(t))
	const policy = `
tiers:
  tiny:
    tokens: 100/min
    limits: [{ name: shadow, dimension: requests, limit: 1, window: 1m, mode: shadow }]
default_tier: tiny
`
	const rules = "domain: d\ndescriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: 1 } }]\n"
	token, hash := auth.NewToken()
	callers := fmt.Sprintf("callers: [{name: a, scopes: [call, metrics], tokens: [%s]}]\n", hash)
	for name, text := range map[string]string{"policy.yaml": policy, "rules.yaml": rules, "auth.yaml": callers} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, "bucketring certs init && bucketring certs issue node1")
	s.run(t, "bucketring serve --name node1 --policy policy.yaml --data state --envoy-config rules.yaml --auth auth.yaml --tls optional --tls-ca-file certs/ca.crt --tls-cert-file certs/node1.crt --tls-key-file certs/node1.key")
	bearer := " -H 'Authorization: Bearer " + token + "'"
	for _, call := range []string{
		`check -d '{"key":"a"}'`,
		`check -d '{"key":"a"}'`,
		`reserve -d '{"key":"a","input_tokens":10,"max_output_tokens":10,"request_id":"r"}'`,
		`settle -d '{"key":"a","request_id":"r","output_tokens":5000}'`,
	} {
		s.run(t, "curl -s localhost:6470/v1/"+call+bearer)
	}
	checkTable(t, operating, "metrics", metricsTable(s.run(t, "curl -s localhost:6470/metrics"+bearer)))
}

var (
	helpLine   = regexp.MustCompile(`(?m)^# HELP (bucketring_\w+) (.*)$`)
	typeLine   = regexp.MustCompile(`(?m)^# TYPE (bucketring_\w+) (.*)$`)
	sampleLine = regexp.MustCompile(`(?m)^(bucketring_\w+?)(?:_bucket|_sum|_count)?\{(.*)\} `)
	labelName  = regexp.MustCompile(`(\w+)="`)
)

// metricsTable converts Prometheus' text format into a Markdown table.
func metricsTable(text string) string {
	kinds := map[string]string{}
	for _, m := range typeLine.FindAllStringSubmatch(text, -1) {
		kinds[m[1]] = m[2]
	}
	labels := map[string]map[string]bool{}
	for _, m := range sampleLine.FindAllStringSubmatch(text, -1) {
		for _, l := range labelName.FindAllStringSubmatch(m[2], -1) {
			if l[1] == "le" {
				continue
			}
			if labels[m[1]] == nil {
				labels[m[1]] = map[string]bool{}
			}
			labels[m[1]][l[1]] = true
		}
	}
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, m := range helpLine.FindAllStringSubmatch(text, -1) {
		names := slices.Sorted(maps.Keys(labels[m[1]]))
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m[1], kinds[m[1]], strings.Join(names, ", "), m[2])
	}
	return b.String()
}

// checkTable compares the text between two marks of a document with want.
func checkTable(t *testing.T, file, name, want string) {
	t.Helper()
	begin, end := fmt.Sprintf("<!-- %s -->\n", name), fmt.Sprintf("<!-- end of %s -->\n", name)
	text := read(t, file)
	head, rest, ok := strings.Cut(text, begin)
	got, tail, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no table between %s and %s", file, begin, end)
	}
	if got == want {
		return
	}
	if !*update {
		t.Fatalf("the table of %s in %s differs from the code: run go test ./internal/docstest -update\n%s", name, file, cmp.Diff(want, got))
	}
	if err := os.WriteFile(filepath.Join(root, file), []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
