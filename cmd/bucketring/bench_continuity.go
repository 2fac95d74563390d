// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench/continuity"
	"github.com/bucketring/bucketring/internal/amount"
)

// campaignFlag is a flag with the number of faults of a campaign.
type campaignFlag struct {
	name, help string
	campaign   continuity.Campaign
}

func newBenchContinuity(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "continuity",
		Short: "Restart, kill, stop and split clusters under load, and audit what they forget",
		Long: `Start clusters of real processes on this machine, send LLM calls and checks, cause
faults, and compare the answers and the final usage with what is promised. The result is
a table of promises and measurements. The exit code is 1 if a promise is broken.

Each flag below sets how often a fault is caused. Without any of them, all campaigns run
in full, which takes about two hours. Splits use network namespaces and need root.`,
		Example: `  bucketring bench continuity --restarts-of-3 2 --kills 2 --pauses 1
  bucketring bench continuity --splits-2-1 1
  bucketring bench continuity --waiters --restarts-of-3 1 --kills 1 --pauses 1
  bucketring bench continuity -o json > continuity.json
  bucketring bench continuity --binary before/bucketring --kills 5`,
		Args: exactArgs(),
	}
	var o continuity.Options
	all := continuity.All()
	flags := make([]*campaignFlag, len(all))
	f := cmd.Flags()
	for i, names := range []struct{ name, help string }{
		{"restarts-of-3", "rolling restarts of three nodes"},
		{"restarts-of-5", "rolling restarts of five nodes"},
		{"kills", "kill -9 of one of three nodes, which starts again after 6 s"},
		{"pauses", "SIGSTOP of one of three nodes for 5 s"},
		{"splits-2-1", "splits of three nodes into two and one; needs root"},
		{"splits-3-2", "splits of five nodes into three and two; needs root"},
		{"full-kills", "kill -9 of all of three nodes with --data, which start again after 1 s"},
	} {
		flags[i] = &campaignFlag{names.name, names.help, all[i]}
		f.IntVar(&flags[i].campaign.Count, names.name, 0, fmt.Sprintf("%s (in full: %d)", names.help, all[i].Count))
	}
	f.BoolVar(&o.Waiters, "waiters", false, "send two to three times the calls that the limits let through, which wait in line")
	f.Float64Var(&o.Rate, "rate", continuity.DefaultRate, "calls per second")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of the calls")
	f.DurationVar(&o.SplitFor, "split-for", continuity.DefaultSplitFor, "length of a split")
	f.StringVar(&o.Binary, "binary", "", "bucketring executable that the nodes run (default this one)")
	f.StringArrayVar(&o.NodeArgs, "node-arg", nil, "argument for each node, such as --node-arg=--log-level=debug; may be repeated")
	f.StringVar(&o.Dir, "logs", "", "directory in which the logs of the nodes are kept (default none)")
	output := addFormat(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.Campaigns = nil
		for _, c := range flags {
			if cmd.Flags().Changed(c.name) && c.campaign.Count < 0 {
				return usageError(cmd, fmt.Errorf("--%s: must not be negative, got %d", c.name, c.campaign.Count), "")
			}
			if c.campaign.Count > 0 {
				o.Campaigns = append(o.Campaigns, c.campaign)
			}
		}
		if len(o.Campaigns) == 0 {
			o.Campaigns = all
		}
		if err := o.Validate(); err != nil {
			return usageError(cmd, err, "")
		}
		return s.runContinuity(cmd, o, *output)
	}
	return cmd
}

// runContinuity runs campaigns and prints their verdict, also of those that ended early.
func (s *streams) runContinuity(cmd *cobra.Command, o continuity.Options, output format) error {
	ctx, stop := onSignals(cmd.Context(), func() {})
	defer stop()
	for _, c := range o.Campaigns {
		if c.Kind == continuity.Split && os.Geteuid() != 0 {
			return errorWithHint(fmt.Errorf("%s: network namespaces need root", c), "run it as root, or choose other campaigns: "+cmd.CommandPath()+" --help")
		}
	}
	o.Log = func(text string) { s.notef("%s\n", text) }
	d, err := continuity.Run(ctx, o)
	if d != nil {
		d.Command, _ = commandOf(cmd)
		write := d.WriteText
		if output == formatJSON {
			write = d.WriteJSON
		}
		if err := write(s.out); err != nil {
			return err
		}
	}
	switch {
	case err != nil && ctx.Err() != nil && !errors.Is(err, context.DeadlineExceeded):
		return errorWithHint(errors.New("interrupted: the result has only the iterations that were complete"), "")
	case err != nil:
		return errorWithHint(err, "")
	case !d.OK:
		return errorWithHint(fmt.Errorf("promises are broken in %s of %s campaigns: see above", amount.Group(broken(d)), amount.Group(int64(len(d.Campaigns)))), "")
	}
	return nil
}

// broken returns the number of campaigns with a broken promise.
func broken(d *continuity.Document) (n int64) {
	for i := range d.Campaigns {
		if !d.Campaigns[i].OK {
			n++
		}
	}
	return n
}
