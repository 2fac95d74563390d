// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/pgtest"
)

// TestPolicyDatabase moves a policy into a database and out, like a user.
func TestPolicyDatabase(t *testing.T) {
	d := pgtest.Start(t).Database(t)
	dir := t.TempDir()
	file, out := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "out.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(code int, want string, args ...string) {
		t.Helper()
		stdout, stderr, got := inProcess(t, args...)
		if got != code || !strings.Contains(stdout+stderr, want) {
			t.Errorf("%v: code %d, want %d and %q:\n%s%s", args[:2], got, code, want, stdout, stderr)
		}
		if strings.Contains(stdout+stderr, pgtest.Password) {
			t.Errorf("%v shows the password:\n%s%s", args[:2], stdout, stderr)
		}
	}
	write("tiers: { free: { tokens: 10/min, spend: $0.5/day }, gold: { tokens: 1_000/min } }\nassign: [ { key: acme, tier: gold }, { key: beta, tier: free } ]\nprices: { \"*\": { input: 1, output: 2 } }\n")
	run(1, "bucketring policy sql | psql", "policy", "import", "--to", d.URL, file)
	sql, _, _ := inProcess(t, "policy", "sql")
	d.Exec(t, sql)
	run(0, "rows: 9 inserted, 0 updated, 0 deleted", "policy", "import", "--to", d.URL, file)
	run(0, "is a valid policy", "policy", "check", d.URL)
	run(0, "gold", "policy", "explain", "acme", "--policy", d.URL)
	run(0, "version", "policy", "export", "--from", d.URL, "--out", out)
	version := func(path string) string {
		stdout, _, _ := inProcess(t, "policy", "check", path)
		_, after, _ := strings.Cut(stdout, "version ")
		return strings.Fields(after + " ?")[0]
	}
	if a, b := version(file), version(out); a != b {
		t.Errorf("the exported file has version %s, want %s", b, a)
	}
	write("tiers: { free: { tokens: 20/min, spend: $0.5/day }, gold: { tokens: 1_000/min } }\nassign: [ { key: acme, tier: gold } ]\nprices: { \"*\": { input: 1, output: 2 } }\n")
	run(1, "nothing is changed: 1 rows would be deleted", "policy", "import", "--to", d.URL, file)
	run(0, "10/1m -> 20/1m", "policy", "import", "--to", d.URL, file, "--yes")
	run(0, "rows: 0 inserted, 0 updated, 0 deleted", "policy", "import", "--to", d.URL, file)
	d.Exec(t, "UPDATE bucketring_limits SET period = 'fortnight' WHERE tier = 'gold'")
	run(1, "bucketring_limits, row (tier=gold, name=tokens), column period", "policy", "check", d.URL)
	run(2, "--to: must be a database", "policy", "import", file)
	run(2, "--from: must be a source", "policy", "export")
}
