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
	"github.com/bucketring/bucketring/internal/nearest"
)

func newBenchReport(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report RUN.json",
		Short: "Show a run as text, HTML or SVG",
		Long: `Show a run that bench run --out has written. Without flags, print a summary. The HTML
report is one self-contained file, without scripts, for light and dark mode.`,
		Example: `  bucketring bench report run.json
  bucketring bench report run.json -o report.html
  bucketring bench report run.json --svg latency.svg --kind latency
  bucketring bench report run.json --hgrm latency.hgrm`,
		Args: exactArgs("RUN.json"),
	}
	flags := cmd.Flags()
	page := flags.StringP("output", "o", "", "write an HTML report to this file")
	svg := flags.String("svg", "", "write an SVG chart to this file")
	kind := flags.String("kind", string(report.LatencyPicture), "chart of --svg: latency, admitted or overload")
	hgrm := flags.String("hgrm", "", "write the latencies to this file, in the format of HdrHistogram plotters")
	target := flags.String("target", "", "target of --hgrm (default: the first)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kinds := []string{string(report.LatencyPicture), string(report.AdmittedPicture), string(report.OverloadPicture)}
		if near := nearest.Word(*kind, kinds); !slices.Contains(kinds, *kind) {
			hint := ""
			if near != "" {
				hint = cmd.CommandPath() + " --kind " + near
			}
			return usageError(cmd, fmt.Errorf("--kind: must be latency, admitted or overload, got %q", *kind), hint)
		}
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
		if written {
			return nil
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
rounds, of the runs.

With --fail-over, exits with 1 if B is significantly worse than A by more than that,
or if the runs are too short to tell.`,
		Example: `  bucketring bench compare before.json after.json
  bucketring bench compare before.json after.json --fail-over 5%
  bucketring bench compare before.json after.json -o json`,
		Args: exactArgs("A.json", "B.json"),
	}
	var over percentage
	cmd.Flags().Var(&over, "fail-over", "maximum regression of a number, such as 5%; in percentage points for shares")
	seed := cmd.Flags().Uint64("seed", 1, "seed of the resampling; the same seed gives the same intervals")
	output := addFormat(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a, err := readRun(cmd, args[0])
		if err != nil {
			return err
		}
		b, err := readRun(cmd, args[1])
		if err != nil {
			return err
		}
		c, err := report.Compare(a, b, report.CompareOptions{FailOver: float64(over), Seed: *seed})
		if err != nil {
			return err
		}
		if *output == formatJSON {
			err = c.WriteJSON(s.out)
		} else {
			err = c.WriteText(s.out, report.TextOptions{Colour: s.outTTY && s.colour})
		}
		if err == nil && len(c.Regressions) > 0 {
			return &commandError{code: exitFailed} // the output has the reason
		}
		if err == nil && over > 0 && !c.Judged() {
			return errorWithHint(errors.New("--fail-over: no number could be compared"), "compare runs of the same targets, of at least 20 s each")
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
