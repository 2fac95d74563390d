// SPDX-License-Identifier: Apache-2.0

package suite_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/suite"
	"github.com/bucketring/bucketring/bench/workload"
)

// A run in a test of your own: fail if the cluster admits more than its limits.
func Example() {
	calls, err := workload.Parse("keys=zipf:1.1x10k tiers=free=70,enterprise=30 llm=30% seed=7")
	if err != nil {
		fmt.Println(err)
		return
	}
	run, err := suite.Run(context.Background(), suite.Options{
		LocalNodes: 3, Binary: "bin/bucketring",
		Workload: calls, Rate: 500,
		Duration: 10 * time.Second, Warmup: time.Second,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if run.Targets[0].Audit.Verdict == report.Violated {
		fmt.Println("not exact:", run.Targets[0].Audit.Summary())
	}
	if err := report.WriteSummary(os.Stdout, run, report.TextOptions{}); err != nil {
		fmt.Println(err)
	}
}
