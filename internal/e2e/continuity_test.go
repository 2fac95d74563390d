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

// TestContinuity is the short form of docs/continuity.md, without its latencies: what else
// the machine does is not known.
func TestContinuity(t *testing.T) {
	for _, args := range [][]string{{"--restarts-of-3", "1"}, {"--kills", "2"}, {"--pauses", "1"}} {
		t.Run(strings.TrimLeft(args[0], "-"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary(t), append([]string{"bench", "continuity", "-o", "json"}, args...)...)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			var d continuity.Document
			if jsonErr := json.Unmarshal(out.Bytes(), &d); jsonErr != nil || len(d.Campaigns) != 1 {
				t.Fatalf("%v: %v, and no document: %v\n%s", args, err, jsonErr, errs.String())
			}
			for _, c := range d.Campaigns[0].Checks {
				if c.Broken && !strings.HasPrefix(c.What, "p99") {
					t.Errorf("%s: %s, promised: %s", c.What, c.Measured, c.Promised)
				}
			}
			t.Logf("%s", errs.String())
		})
	}
}
