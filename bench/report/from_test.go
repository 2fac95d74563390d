// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// TestFromResult takes over a real run, in virtual time.
func TestFromResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrivals, err := bench.Constant(100)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		result, err := bench.Run(t.Context(), bench.Options{
			Target: bench.CheckFunc(func(_ context.Context, c *bench.Call) (bench.Answer, error) {
				if c.Requests == 0 {
					return bench.Answer{}, errors.New("broken")
				}
				time.Sleep(time.Millisecond)
				if c.Requests == 1 {
					return bench.Answer{Outcome: bench.Denied, Route: "local"}, nil
				}
				return bench.Answer{Outcome: bench.Allowed, Route: "forward"}, nil
			}),
			Workload: bench.WorkloadFunc(func(c *bench.Call) bool {
				n++
				*c = bench.Call{Key: "a", ID: fmt.Sprint(n), Requests: int64(n % 4)}
				return true
			}),
			Arrivals: arrivals, Warmup: 2 * time.Second, Duration: 8 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		target, err := NewTarget(result)
		if err != nil {
			t.Fatal(err)
		}
		target.Name = "a check"
		if target.Offered != 800 || target.Achieved != 600 || target.Denied != 200 || target.Failed != 200 {
			t.Errorf("counts %+v, want 800 offered, 600 achieved, 200 denied, 200 failed", target.Counts)
		}
		if len(target.Series) < 8 || target.Series[0].At != 0 || target.Series[0].Offered != 100 {
			t.Errorf("series %+v, want 8 seconds from 0 on", target.Series)
		}
		if l := target.Overall(); l == nil || l.Count != 800 || l.Op != "" {
			t.Errorf("overall %+v, want all 800", l)
		}
		if len(target.Errors) != 1 || target.Errors[0] != (ErrorCount{"check: broken", 200}) {
			t.Errorf("errors %+v", target.Errors)
		}
		run := &Run{FormatVersion: FormatVersion, Targets: []Target{target}}
		var b bytes.Buffer
		if err := Write(&b, run); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(&b); err != nil {
			t.Fatal(err)
		}
		if err := WriteHTML(io.Discard, run); err != nil {
			t.Fatal(err)
		}
	})
}
