// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/internal/waittest"
)

// leastGoodput is the share of the peak that is answered when ten times too much is
// asked. The generator has the same processors as the nodes, and on a busy machine takes
// most of them; a cluster that collapses answers a few hundredths.
const leastGoodput = 0.15

// TestOverload offers up to ten times what a cluster can answer.
func TestOverload(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"checks", nil},
		{"LLM calls", []string{"--llm", "50%", "--retries", "2%"}},
		{"unary gRPC", []string{"--target", "grpc:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 6*waittest.Limit)
			defer cancel()
			cmd := exec.CommandContext(ctx, binary(t), append([]string{
				"bench", "run", "--local", "3", "--overload", "--for", "3s", "--keys", "uniform:200k", "--out", "", "--report", "", "-o", "json",
			}, tt.args...)...)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			_ = cmd.Run() // exit code 1 says that goodput fell below its own, stricter bound
			run := &report.Run{}
			if err := json.Unmarshal(out.Bytes(), run); err != nil || len(run.Targets) == 0 || run.Targets[0].Overload == nil {
				t.Fatalf("no result: %v\n%s%s", err, &out, &errs)
			}
			target := &run.Targets[0]
			peak := target.Overload.Peak()
			for _, s := range target.Overload.Steps {
				// If the machine was busy while the capacity was measured, the nodes can answer
				// several times as much now.
				beyond := s.Times*target.Overload.Capacity > peak
				t.Logf("%gx: offered %.0f/s, sent %.0f/s, answered %.0f/s, p99 %v; %d refused, p99 %v; %d failed", s.Times, s.Offered, s.Sent, s.Answered, s.P99, s.Calls.Refused, s.RefusedP99, s.Calls.Failed)
				if s.Times > 2 && beyond && s.Calls.Refused == 0 {
					t.Errorf("at %gx nothing was refused", s.Times)
				}
				if c := s.Control; c != nil {
					t.Logf("%gx, control: %.0f/s to the nodes, sent %.0f/s, answered %.0f/s", s.Times, c.ToTarget, c.Sent, c.Answered)
					if c.Answered == 0 || c.ServersCPU == 0 {
						t.Errorf("at %gx the control answered nothing: %+v", s.Times, c)
					}
				} else if s.Times > 1 && beyond && s.Recovery != report.NeverNormal {
					t.Errorf("at %gx there was no control", s.Times)
				}
				if b := s.Bare; b != nil {
					t.Logf("%gx, bare servers: %.0f refusals/s, p99 %v", s.Times, b.Refused, b.P99)
				}
				if want := tt.name == "unary gRPC" && s.Times >= 1; (s.Bare != nil && s.Bare.Refused > 0) != want {
					t.Errorf("at %gx bare servers refused %+v, want some: %t", s.Times, s.Bare, want)
				}
				if s.LLM.SettlesFailed > 0 {
					t.Errorf("at %gx %d settles failed, want none: they are never refused", s.Times, s.LLM.SettlesFailed)
				}
			}
			if worst, share := target.Overload.Worst(); share < leastGoodput {
				t.Errorf("at %gx %.0f %% of the peak are answered, want at least %.0f %%", worst.Times, 100*share, 100*leastGoodput)
			}
			if target.Audit == nil || target.Audit.Verdict == report.Violated {
				t.Errorf("audit: %+v", target.Audit)
			}
		})
	}
}
