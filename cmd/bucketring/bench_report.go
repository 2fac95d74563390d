// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench/report"
)

func newBenchReport(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report RUN.json",
		Short: "Show a run as text, HTML or SVG",
		Long: `Show a run that bench run --out has written. Without flags, print a summary. The HTML
report is one self-contained file, without scripts, for light and dark mode.`,
		Example: `  bucketring bench report run.json
  bucketring bench report run.json -o json
  bucketring bench report run.json --out report.html
  bucketring bench report run.json --svg latency.svg --kind latency
  bucketring bench report run.json --hgrm latency.hgrm`,
		Args: exactArgs("RUN.json"),
	}
	flags := cmd.Flags()
	page := flags.String("out", "", "write an HTML report to this file")
	svg := flags.String("svg", "", "write an SVG chart to this file")
	kind := addChoice(flags, "kind", "chart of --svg: ", string(report.LatencyPicture), string(report.AdmittedPicture), string(report.OverloadPicture))
	hgrm := flags.String("hgrm", "", "write the latencies to this file, in the format of HdrHistogram plotters")
	target := flags.String("target", "", "target of --hgrm (default: the first)")
	output := addFormat(flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		run, err := readRun(cmd, args[0])
		if err != nil {
			return err
		}
		of, err := targetOf(run, *target)
		if err != nil {
			return usageError(cmd, err, "")
		}
		written := false
		for _, file := range []struct {
			path  string
			write func(*os.File) error
		}{
			{*page, func(f *os.File) error { return report.WriteHTML(f, run) }},
			{*svg, func(f *os.File) error { return report.SVG(f, run, report.Picture(*kind)) }},
			{*hgrm, func(f *os.File) error { return writeHGRM(f, of) }},
		} {
			if file.path == "" {
				continue
			}
			if err := writeFile(file.path, file.write); err != nil {
				return err
			}
			s.notef("wrote %s\n", file.path)
			written = true
		}
		switch {
		case written:
			return nil
		case *output == formatJSON:
			return report.WriteJSONSummary(s.out, run)
		}
		return report.WriteSummary(s.out, run, report.TextOptions{Colour: s.outTTY && s.colour})
	}
	return cmd
}

func targetOf(run *report.Run, name string) (*report.Target, error) {
	var names []string
	for i := range run.Targets {
		if t := &run.Targets[i]; name == "" || t.Name == name {
			return t, nil
		}
		names = append(names, run.Targets[i].Name)
	}
	return nil, fmt.Errorf("--target: must be a target of the run (%s), got %q", strings.Join(names, ", "), name)
}

func writeHGRM(f *os.File, t *report.Target) error {
	l := t.Overall()
	if l == nil {
		return fmt.Errorf("%s has no latencies", t.Name)
	}
	return report.WriteHGRM(f, l)
}

func newBenchCompare(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compare A.json B.json",
		Short: "Compare two runs",
		Long: `Compare two runs, target by target, with confidence intervals. A difference is
reported as a change only if it exceeds the variation between the seconds, or the
rounds, of the runs. Runs of less than 20 seconds, or 5 rounds, are not judged.

With --fail-over, there is a verdict for each metric, and one for all:

  worse        the whole interval is beyond the bound: exits with 1
  not worse    the whole interval is within the bound: exits with 0
  cannot tell  the bound is inside the interval, or there is none: exits with 1

The intervals do not know what differs between any two runs, such as the state of the
machine. To compare limiters on one machine, use --vs of "bucketring bench run".`,
		Example: `  bucketring bench compare before.json after.json
  bucketring bench compare before.json after.json --fail-over 5%
  bucketring bench compare before.json after.json --fail-over 10% --metrics achieved,p50
  bucketring bench compare before.json after.json -o json`,
		Args: exactArgs("A.json", "B.json"),
	}
	var over percentage
	cmd.Flags().Var(&over, "fail-over", "how much worse a number may be, such as 5%; in percentage points for shares")
	only := cmd.Flags().StringSlice("metrics", nil, "metrics to compare, separated by commas (default: all)")
	withChoices(cmd.Flags(), "metrics", report.MetricNames()...)
	seed := cmd.Flags().Uint64("seed", 1, "seed of the resampling; the same seed gives the same intervals")
	output := addFormat(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, name := range *only {
			if names := report.MetricNames(); !slices.Contains(names, name) {
				return usageError(cmd, fmt.Errorf("--metrics: must be of %s, got %q", strings.Join(names, ", "), name), "")
			}
		}
		a, err := readRun(cmd, args[0])
		if err != nil {
			return err
		}
		b, err := readRun(cmd, args[1])
		if err != nil {
			return err
		}
		c, err := report.Compare(a, b, report.CompareOptions{FailOver: float64(over), Metrics: *only, Seed: *seed})
		if err != nil {
			return err
		}
		if *output == formatJSON {
			err = c.WriteJSON(s.out)
		} else {
			err = c.WriteText(s.out, report.TextOptions{Colour: s.outTTY && s.colour})
		}
		switch {
		case err != nil:
		case c.Verdict == report.Worse:
			return &commandError{code: exitFailed} // the output has the reason
		case c.Verdict == report.CannotTell:
			return errorWithHint(errors.New("--fail-over: the runs cannot tell"), c.Remedy())
		}
		return err
	}
	return cmd
}

// percentage is a flag such as 5%.
type percentage float64

// String implements pflag.Value.
func (p *percentage) String() string {
	if *p == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*p), 'f', -1, 64) + "%"
}

// Type implements pflag.Value.
func (p *percentage) Type() string { return "percent" }

// Set implements pflag.Value.
func (p *percentage) Set(text string) error {
	n, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(n > 0 && n <= 1000) {
		return errors.New("must be a percentage above 0, such as 5%")
	}
	*p = percentage(n)
	return nil
}
