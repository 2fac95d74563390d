// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/bucketring/bucketring/bench/report"
)

// TestHotKey asks for one key as often as three and five nodes can take, with slices and
// without. The audit must be exact either way, also at the edge of a limit, where slices are
// recalled.
func TestHotKey(t *testing.T) {
	dir := t.TempDir()
	measure := func(name, nodes, limit string, args ...string) *report.Target {
		t.Helper()
		policy, document := filepath.Join(dir, name+".yaml"), filepath.Join(dir, name+".json")
		text := fmt.Sprintf("tiers:\n  hot:\n    limits:\n      - { dimension: requests, %s }\ndefault_tier: hot\n", limit)
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var target *report.Target
		code := 0
		// A slice that is returned too late, because the machine pauses, is charged in full. So
		// one more attempt, unless more was admitted than the limit.
		for attempt := range 2 {
			var out string
			out, code = run(t, binary(t), append([]string{
				"bench", "run", "--local", nodes, "--policy", policy, "--tiers", "hot", "--keys", "hot:acme", "--tokens", "fixed:0+0", "--no-ids",
				"--for", "2s", "--warmup", "1s", "--out", document, "--report", "",
			}, args...)...)
			t.Logf("%s, attempt %d: exit %d\n%s", name, attempt+1, code, out)
			target = &readRun(t, document).Targets[0]
			if a := target.Audit; code == 0 || a == nil || a.OverAdmitted > 0 || a.DoubleCharges > 0 {
				break
			}
		}
		if a := target.Audit; code != 0 || a == nil || a.Verdict != report.Exact {
			t.Errorf("%s: exit %d, audit %+v, want an exact one", name, code, a)
		}
		if target.Failed > 0 || target.Achieved == 0 {
			t.Errorf("%s: %d of %d calls failed", name, target.Failed, target.Offered)
		}
		return target
	}
	// With a window of a minute, a bucket refills by a thousand calls in a millisecond. The audit
	// knows the times of the owner less exactly than that.
	const plenty = "limit: 60_000_000, window: 60m"
	off := measure("off", "3", plenty+", slices: off", "--callers", "256")
	clients := measure("clients", "3", plenty+", slices: clients", "--callers", "256")
	if clients.Achieved < 3*off.Achieved {
		t.Errorf("clients with slices got %d answers, and %d without, want at least three times as many", clients.Achieved, off.Achieved)
	}
	measure("edge", "5", "limit: 60_000, window: day, slices: clients", "--rate", "40k")
	edge := measure("edge of nodes", "5", "limit: 5_000, window: day", "--callers", "64", "--target", "grpc:")
	if edge.Denied == 0 {
		t.Error("the limit was not reached")
	}
}
