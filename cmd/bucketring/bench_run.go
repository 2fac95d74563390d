// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/suite"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/internal/amount"
)

func newBenchRun(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Send load to a limiter, measure it, and audit its answers",
		Long: `Send calls at a fixed rate that does not depend on the limiter, and measure the
latency of each call from the time at which it was due, so that stalls are visible.
Afterwards audit every answer against the policy: was more admitted than the limits
allow, was a call denied although it fit, was anything charged twice?

--local starts a cluster on this machine, in which --kill and the other fault flags
cause faults, at times since the end of the warm-up. Without --local, --servers or
--target, the target is the node at ` + defaultServer + `. The answers of running nodes are
audited if --policy is their policy.

--overload shows what happens when more is asked than a target can answer. It exits
with 1 if goodput, which is what is answered in time, falls below 85 % of its peak.

With --vs, targets take turns under the same load, and the ratio in each round is
compared. Redis targets have one limit per key, of 1,000 requests per minute.

The run and its report are written to bucketring-bench-<time>.json and .html in the
working directory, or to --out and --report; --out "" or --report "" writes none. An
interrupt ends the run early and keeps what was measured so far.

Targets:
` + targetKinds(),
		Example: `  bucketring bench run --local 3 --for 10s
  bucketring bench run --local 3 --rate 20k --for 30s --keys zipf:1.1x100k --llm 30% --retries 1%
  bucketring bench run --local 3 --for 30s --kill 1@10s --join 1@20s
  bucketring bench run --local 3 --for 30s --vs redis://localhost:6379 --vs redis-lua://localhost:6379
  bucketring bench run --local 3 --trace azure --speed 10 --for 1m
  bucketring bench run --local 3 --callers 128 --target grpc:
  bucketring bench run --local 3 --keys uniform:200k --overload --vs redis-lua://localhost:6379
  bucketring bench run --target openai:http://127.0.0.1:8080 --vs openai:http://127.0.0.1:9000 --rate 50 --for 50s
  bucketring bench run --servers 127.0.0.1:6471 --policy policy.yaml --rate 500 --out run.json`,
		Args: exactArgs(),
	}
	var b benchFlags
	b.declare(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		stamp := "bucketring-bench-" + time.Now().Format("20060102-150405")
		if !cmd.Flags().Changed("out") {
			b.out = stamp + ".json"
		}
		if !cmd.Flags().Changed("report") {
			b.reportPath = stamp + ".html"
		}
		if err := b.resolve(cmd, s); err != nil {
			return err
		}
		for _, file := range []struct{ flag, path string }{{"--out", b.out}, {"--report", b.reportPath}} {
			if file.path == "" {
				continue
			}
			if err := checkWritable(file.path); err != nil {
				return usageError(cmd, fmt.Errorf("%s: %w", file.flag, err), file.flag+" with a file in an existing directory, or '' for none")
			}
		}
		return s.runBench(cmd, &b)
	}
	return cmd
}

// benchGCPercent is the GOGC of a run unless the environment sets it. The load has the same
// processors as a local cluster, and its log only grows. The nodes are other processes.
const benchGCPercent = 400

// runBench runs the benchmark and writes its result, even if it was interrupted.
func (s *streams) runBench(cmd *cobra.Command, b *benchFlags) error {
	ctx, stop := onSignals(cmd.Context(), func() {})
	defer stop()
	if gogc, _ := s.lookupEnv("GOGC"); gogc == "" {
		debug.SetGCPercent(benchGCPercent)
	}
	target.DisableRedisLogging()
	o := &b.options
	live := report.NewLive(s.err, s.liveOptions(o.TurnLength()))
	defer live.Close()
	if b.calibrate {
		if err := calibrate(ctx, live, o); err != nil {
			return err
		}
	}
	if o.LocalNodes > 0 {
		live.Note("starting " + nodeCount(o.LocalNodes))
	}
	o.OnTurnStart, o.OnTurnEnd, o.OnInterval, o.Log = live.Begin, live.End, live.Update, live.Note

	run, err := suite.Run(ctx, *o)
	live.Close()
	if run == nil && ctx.Err() != nil {
		return errorWithHint(errors.New("interrupted before anything was measured"), "")
	}
	if run == nil {
		return b.runError(cmd, err)
	}
	unwritten := s.writeBenchFiles(b, run)
	if unwritten != nil {
		b.reportPath = "" // it was not written
	}
	if *b.output == formatJSON {
		if err := report.Write(s.out, run); err != nil {
			return err
		}
	} else if err := report.WriteSummary(s.out, run, report.TextOptions{Colour: s.outTTY && s.colour, Report: b.reportPath}); err != nil {
		return err
	}
	if unwritten != nil {
		return unwritten
	}
	if b.out != "" {
		s.notef("run: %s (bucketring bench report %s)\n", b.out, b.out)
	}
	if err != nil && ctx.Err() != nil {
		return errorWithHint(errors.New("interrupted: the result has only what was measured so far"), "")
	}
	if err != nil {
		return err
	}
	// The audits of the targets of --vs are only in the report.
	if a := run.Targets[0].Audit; a != nil && a.Verdict == report.Violated {
		return errorWithHint(fmt.Errorf("%s exceeded its limits: see the audit above", run.Targets[0].Name), "")
	}
	if o := run.Targets[0].Overload; o != nil && o.Collapsed() {
		return errorWithHint(fmt.Errorf("the goodput of %s collapses under overload: see above", run.Targets[0].Name), "")
	}
	return nil
}

func (s *streams) writeBenchFiles(b *benchFlags, run *report.Run) error {
	if b.out != "" {
		if err := writeRun(b.out, run); err != nil {
			return err
		}
	}
	if b.reportPath != "" {
		return writeFile(b.reportPath, func(f *os.File) error { return report.WriteHTML(f, run) })
	}
	return nil
}

// calibrate measures the benchmark itself.
func calibrate(ctx context.Context, live *report.Live, o *suite.Options) error {
	live.Note("measuring the benchmark itself, about 3 s")
	c, err := bench.Calibrate(ctx, func(rate float64) {
		if rate == 0 {
			live.Step("… at its maximum rate")
		} else {
			live.Step("… at " + amount.Group(int64(rate)) + " calls/s")
		}
	})
	live.End()
	switch {
	case ctx.Err() != nil:
		return errorWithHint(errors.New("interrupted before anything was measured"), "")
	case err != nil:
		return fmt.Errorf("calibrate: %w", err)
	}
	o.Harness = report.NewHarness(c)
	return nil
}

func nodeCount(n int) string {
	if n == 1 {
		return "1 node"
	}
	return amount.Group(int64(n)) + " nodes"
}

// liveOptions says how to show progress on standard error.
func (s *streams) liveOptions(total time.Duration) report.LiveOptions {
	if file, ok := s.err.(*os.File); ok {
		return report.DetectLive(file, total)
	}
	return report.LiveOptions{Total: total}
}
