// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench/continuity"
)

// TestWaitersWhileNodesRestart is the short form of what docs/continuity.md says of calls that wait
// in line: a rolling restart and a crash, while two to three times as many calls come as the limits
// let through. What depends on the speed of the machine is not checked.
func TestWaitersWhileNodesRestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), "bench", "continuity", "--waiters", "--restarts-of-3", "1", "--kills", "1", "--rate", "200", "-o", "json")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var d continuity.Document
	if jsonErr := json.Unmarshal(out.Bytes(), &d); jsonErr != nil || len(d.Campaigns) != 2 {
		t.Fatalf("%v, and no document: %v\n%s", err, jsonErr, errs.String())
	}
	for _, r := range d.Campaigns {
		for _, c := range r.Checks {
			if c.Broken && !strings.HasPrefix(c.What, "exact again") && c.What != "errors" {
				t.Errorf("%s: %s: %s, promised: %s", r.Name, c.What, c.Measured, c.Promised)
			}
		}
		if r.Failed*100 > r.Requests {
			t.Errorf("%s: %d of %d requests failed", r.Name, r.Failed, r.Requests)
		}
		if r.Waiting == nil || r.Waiting.Admitted < 100 {
			t.Errorf("%s: too few calls waited: %+v", r.Name, r.Waiting)
		}
	}
	t.Logf("%s", errs.String())
}
