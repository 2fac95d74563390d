// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/bench/wire"
)

func newBenchWire(s *streams) *cobra.Command {
	var o wire.Options
	var only, write string
	cmd := &cobra.Command{
		Use:   "wire",
		Short: "Measure what one call costs, beside an echo and other limiters",
		Long: `Start one node, a cluster of three nodes and a gRPC echo in processes of their own, and
measure how many checks callers get who each wait for their answer: one call per check,
batches, the client library, through a node that does not own the key, and one key that
everybody asks for. The node alone copies and writes nothing; the cluster copies each charge
to a second node and writes a journal. Print the medians as a table in Markdown.

Each round measures all rows in a shuffled order. Only ratios within one run say something,
since clients and servers share the machine: the table has the ratio to the echo, which
decides nothing.

With --vs, running targets are measured in the same rounds; "bucketring bench run --help"
lists them. With --write, a document gets the tables between its lines <!-- wire --> and
<!-- end of wire -->.`,
		Example: `  bucketring bench wire
  bucketring bench wire --rounds 3 --for 1s --only 'echo|client'
  bucketring bench wire --vs redis-lua://localhost:6379 --vs throttle://localhost:6379
  bucketring bench wire --vs resp://localhost:6479 --vs gubernator:localhost:1051`,
		Args: exactArgs(),
	}
	f := cmd.Flags()
	f.IntVar(&o.Rounds, "rounds", 5, "rounds; a row is the median of them")
	f.DurationVar(&o.Length, "for", 2*time.Second, "measured time of a row in a round")
	f.StringVar(&only, "only", "", "measure only the rows whose name matches this regular expression")
	f.StringArrayVar(&o.Versus, "vs", nil, "running target to compare with, such as redis-lua://localhost:6379; may be repeated")
	f.BoolVar(&o.Targets.Insecure, "insecure", false, "allow connections to other machines without TLS")
	f.StringVar(&o.Gubernator, "gubernator", "", "program that runs daemons of Gubernator, built from bench/gubernator, to compare with it")
	f.StringVar(&o.Profiles, "profiles", "", "write CPU profiles of this process and, in the first round, of the nodes to this directory")
	f.StringVar(&write, "write", "", "document to write the tables into, instead of printing them")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.Only, err = regexp.Compile(only); err != nil {
			return usageError(cmd, fmt.Errorf("--only: %w", err), cmd.CommandPath()+" --only 'echo|client'")
		}
		var document []byte
		if write != "" {
			if document, err = os.ReadFile(write); err != nil {
				return usageError(cmd, fmt.Errorf("--write: %w", err), "")
			}
			if _, err := wire.Replace(string(document), ""); err != nil {
				return usageError(cmd, fmt.Errorf("--write: %s: %w", write, err), "")
			}
		}
		if o.Profiles != "" {
			if info, err := os.Stat(o.Profiles); err != nil || !info.IsDir() {
				return usageError(cmd, fmt.Errorf("--profiles: %s is not a directory", o.Profiles), "mkdir "+o.Profiles)
			}
		}
		if err := o.Validate(); err != nil {
			hint := ""
			if errors.Is(err, target.ErrPlaintext) {
				hint = "--insecure"
			}
			return usageError(cmd, namingFlags(cmd, err), hint)
		}
		o.Command, _ = commandOf(cmd)
		return s.benchWire(cmd, o, write, string(document))
	}
	return cmd
}

// benchWire measures, and prints the tables or writes them into a document.
func (s *streams) benchWire(cmd *cobra.Command, o wire.Options, path, document string) error {
	ctx, stop := onSignals(cmd.Context(), func() {})
	defer stop()
	target.DisableRedisLogging()
	live := report.NewLive(s.err, s.liveOptions(0))
	defer live.Close()
	round := 0
	o.Progress = func(done, total int, row string) {
		if now := done*o.Rounds/total + 1; now != round {
			round = now
			live.Note(fmt.Sprintf("round %d of %d, %d rows", round, o.Rounds, total/o.Rounds))
		}
		live.Step(row)
	}
	result, err := wire.Run(ctx, o)
	live.Close()
	switch {
	case ctx.Err() != nil:
		return errorWithHint(errors.New("interrupted before everything was measured"), "")
	case err != nil:
		return err
	case path == "":
		return result.WriteMarkdown(s.out)
	}
	return writeFile(path, func(f *os.File) error {
		text, err := wire.Replace(document, result.Markdown())
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return err
	})
}
