// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/suite"
)

func newBenchRun(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Put load on a limiter, measure it, and audit its answers",
		Long: `Send calls at a rate that does not wait for the limiter, and measure each answer
from the time at which its call was due: a limiter that stalls cannot hide it.
Afterwards every answer is audited against the policy: was more admitted than the
limits allow, was a call denied that had room, was anything charged twice?

--local starts a cluster on this machine, which --kill and the other faults can
break. Their times are since the end of the warm-up. Without --local, --servers or
--target the nodes that run at ` + defaultServer + ` are asked; their answers are audited
if --policy says what their policy is.

With --vs, targets take turns under the same load; what is compared is the ratio
in each round. Those of Redis keep one limit per key, 1,000 requests per minute.

Data goes to two files in the working directory, bucketring-bench-<time>.json and
.html, unless --out and --report say where; --out "" or --report "" writes none.
An interrupt ends the run early; what was measured until then is kept.

Targets:
` + kindsOfTargets(),
		Example: `  bucketring bench run --local 3 --for 10s
  bucketring bench run --local 3 --rate 20k --for 30s --keys zipf:1.1x100k --llm 30% --retries 1%
  bucketring bench run --local 3 --for 30s --kill 1@10s --join 1@20s
  bucketring bench run --local 3 --for 30s --vs redis://localhost:6379 --vs redis-lua://localhost:6379
  bucketring bench run --local 3 --trace azure --speed 10 --for 1m
  bucketring bench run --local 3 --callers 128 --target grpc:
  bucketring bench run --target openai:http://127.0.0.1:8080 --vs openai:http://127.0.0.1:9000 --rate 50 --for 50s
  bucketring bench run --servers 127.0.0.1:6471 --policy policy.yaml --rate 500 --out run.json`,
		Args: arguments(),
	}
	var b benchFlags
	b.declare(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		stamp := "bucketring-bench-" + time.Now().Format("20060102-150405")
		if !cmd.Flags().Changed("out") {
			b.out = stamp + ".json"
		}
		if !cmd.Flags().Changed("report") {
			b.page = stamp + ".html"
		}
		if err := b.complete(cmd, s); err != nil {
			return err
		}
		return s.runBench(cmd.Context(), &b)
	}
	return cmd
}

// runBench does a run and writes what it found, also if it was interrupted.
func (s *streams) runBench(ctx context.Context, b *benchFlags) error {
	ctx, stop := onSignals(ctx, func() {})
	defer stop()
	o := &b.options
	if b.calibrate {
		flag, err := s.calibrated(ctx)
		if err != nil {
			return err
		}
		o.Flags = append(o.Flags, flag)
	}
	if o.Local > 0 {
		s.note("starting %d nodes\n", o.Local)
	}
	live := report.NewLive(s.err, s.live(o.Turn()))
	defer live.Close()
	o.Begin, o.Progress, o.Log = live.Begin, live.Update, live.Note

	run, err := suite.Run(ctx, *o)
	live.Close()
	if run == nil {
		if errors.Is(err, suite.ErrNotReady) {
			return failed(err, "is it running? start it, for example with bucketring dev, or use --local 3")
		}
		return err
	}
	if err := s.benchFiles(b, run); err != nil {
		return err
	}
	if *b.output == formatJSON {
		if err := report.Write(s.out, run); err != nil {
			return err
		}
	} else if err := report.Summary(s.out, run, report.TextOptions{Colour: s.outTTY && s.colour, Report: b.page}); err != nil {
		return err
	}
	if b.out != "" {
		s.note("run: %s (bucketring bench report %s)\n", b.out, b.out)
	}
	if err != nil && ctx.Err() != nil {
		return failed(errors.New("interrupted: this is what was measured until then"), "")
	}
	return err
}

func (s *streams) benchFiles(b *benchFlags, run *report.Run) error {
	if b.out != "" {
		if err := writeFile(b.out, func(f *os.File) error { return report.Write(f, run) }); err != nil {
			return err
		}
	}
	if b.page != "" {
		return writeFile(b.page, func(f *os.File) error { return report.HTML(f, run) })
	}
	return nil
}

// calibrated measures the bench itself, and says so.
func (s *streams) calibrated(ctx context.Context) (report.Flag, error) {
	c, err := bench.Calibrate(ctx)
	if err != nil {
		return report.Flag{}, fmt.Errorf("calibrate: %w", err)
	}
	text := fmt.Sprintf("%s calls/s at most in an open loop, %s in a closed one; adds %s (p50), %s (p99) to a latency; %s of CPU per million calls",
		grouped(int64(c.OpenRate)), grouped(int64(c.ClosedRate)),
		c.Added.P50.Round(100*time.Nanosecond), c.Added.P99.Round(100*time.Nanosecond),
		(c.CPUPerCall * 1_000_000).Round(10*time.Millisecond))
	s.note("harness: %s\n", text)
	return report.Flag{Name: "harness", Value: text}, nil
}

// live says how progress is shown on standard error.
func (s *streams) live(total time.Duration) report.LiveOptions {
	if file, ok := s.err.(*os.File); ok {
		return report.Detect(file, total)
	}
	return report.LiveOptions{Total: total}
}
