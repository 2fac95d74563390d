// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// The limits hardly refill during a test, so that admitted calls can be counted:
// 1,000 in 30 days is one in 43 minutes. Limits with the same name would share one
// count, so each tier has its own name.
const testTiers = `
tiers:
  exact:  { limits: [{ name: exact,  dimension: requests, limit: 1_000, window: 720h }] }
  plenty: { limits: [{ name: plenty, dimension: requests, limit: 1_000_000_000, window: 1m }] }
  share:  { limits: [{ name: share,  dimension: requests, limit: 30, window: 720h, unreachable: share }] }
  closed: { limits: [{ name: closed, dimension: requests, limit: 30, window: 720h, unreachable: closed }] }
  open:   { limits: [{ name: open,   dimension: requests, limit: 30, window: 720h, unreachable: open }] }
  model:  { concurrent: 1, limits: [{ name: model, dimension: tokens, limit: 10_000, window: 720h }] }
`

// Limits of testTiers.
const (
	exactLimit = 1000
	shareLimit = 30
)

// policyDir returns a directory with the policy of deploy/policy and the tiers
// above, readable by the user of a container.
func policyDir(t *testing.T) string {
	t.Helper()
	sample, err := os.ReadFile(filepath.Join(root, "deploy/policy/policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"policy.yaml": string(sample), "tests.yaml": testTiers} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dir, filepath.Dir(dir)} { // the container's user is nobody here
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
