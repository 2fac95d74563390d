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
		for _, file := range []struct{ flag, path string }{{"--out", b.out}, {"--report", b.page}} {
			if file.path == "" {
				continue
			}
			if err := writable(file.path); err != nil {
				return misused(cmd, fmt.Errorf("%s: %w", file.flag, err), file.flag+" with a file in a directory that is there, or '' for none")
			}
		}
		return s.runBench(cmd, &b)
	}
	return cmd
}

// runBench does a run and writes what it found, also if it was interrupted.
func (s *streams) runBench(cmd *cobra.Command, b *benchFlags) error {
	ctx, stop := onSignals(cmd.Context(), func() {})
	defer stop()
	o := &b.options
	live := report.NewLive(s.err, s.live(o.TurnLength()))
	defer live.Close()
	if b.calibrate {
		if err := calibrate(ctx, live, o); err != nil {
			return err
		}
	}
	if o.LocalNodes > 0 {
		live.Note("starting " + nodes(o.LocalNodes))
	}
	o.OnTurnStart, o.OnTurnEnd, o.OnInterval, o.Log = live.Begin, live.End, live.Update, live.Note

	run, err := suite.Run(ctx, *o)
	live.Close()
	if run == nil && ctx.Err() != nil {
		return failed(errors.New("interrupted: nothing was measured yet"), "")
	}
	if run == nil {
		return b.failed(cmd, err)
	}
	unwritten := s.benchFiles(b, run)
	if unwritten != nil {
		b.page = "" // there is none to point to
	}
	if *b.output == formatJSON {
		if err := report.Write(s.out, run); err != nil {
			return err
		}
	} else if err := report.WriteSummary(s.out, run, report.TextOptions{Colour: s.outTTY && s.colour, Report: b.page}); err != nil {
		return err
	}
	if unwritten != nil {
		return unwritten
	}
	if b.out != "" {
		s.note("run: %s (bucketring bench report %s)\n", b.out, b.out)
	}
	if err != nil && ctx.Err() != nil {
		return failed(errors.New("interrupted: this is what was measured until then"), "")
	}
	if err != nil {
		return err
	}
	// Of what is compared with it, the verdict is in the report.
	if a := run.Targets[0].Audit; a != nil && a.Verdict == report.Violated {
		return failed(fmt.Errorf("%s did not keep its limits: see the audit above", run.Targets[0].Name), "")
	}
	return nil
}

func (s *streams) benchFiles(b *benchFlags, run *report.Run) error {
	if b.out != "" {
		if err := writeRun(b.out, run); err != nil {
			return err
		}
	}
	if b.page != "" {
		return writeFile(b.page, func(f *os.File) error { return report.WriteHTML(f, run) })
	}
	return nil
}

// calibrate measures the bench itself.
func calibrate(ctx context.Context, live *report.Live, o *suite.Options) error {
	live.Note("measuring the bench itself, about 3 s")
	c, err := bench.Calibrate(ctx, func(rate float64) {
		if rate == 0 {
			live.Step("… as fast as it can")
		} else {
			live.Step("… at " + grouped(int64(rate)) + " calls/s")
		}
	})
	live.End()
	switch {
	case ctx.Err() != nil:
		return failed(errors.New("interrupted: nothing was measured yet"), "")
	case err != nil:
		return fmt.Errorf("calibrate: %w", err)
	}
	o.Harness = report.NewHarness(c)
	return nil
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return grouped(int64(n)) + " nodes"
}

// live says how progress is shown on standard error.
func (s *streams) live(total time.Duration) report.LiveOptions {
	if file, ok := s.err.(*os.File); ok {
		return report.DetectLive(file, total)
	}
	return report.LiveOptions{Total: total}
}
