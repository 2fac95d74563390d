// SPDX-License-Identifier: Apache-2.0

package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/bench/report"
)

func newBench(s *streams) *cobra.Command {
	cmd := commandGroup(&cobra.Command{
		Use:   "bench",
		Short: "Measure the speed and the exactness of a limiter",
		Long: `Send load to a limiter, measure the latency of each call from the time at which it
was due, and audit the answers: was more admitted than the limits allow, or anything
charged twice?

The target is a cluster that the benchmark starts itself or a running one. It can be
compared side by side with other limiters.`,
		Example: `  bucketring bench run --local 3 --for 10s
  bucketring bench report run.json --out report.html
  bucketring bench compare before.json after.json --fail-over 5%`,
	})
	for _, c := range []*cobra.Command{newBenchRun(s), newBenchReport(s), newBenchCompare(s), newBenchWire(s), newBenchContinuity(s), newBenchEcho(), newBenchBusy(), newBenchBare()} {
		c.Flags().SortFlags = false
		cmd.AddCommand(c)
	}
	return cmd
}

// gzipSuffix is the suffix of files that are compressed.
const gzipSuffix = ".gz"

// writeRun writes a run to a file.
func writeRun(path string, run *report.Run) error {
	return writeFile(path, func(f *os.File) error {
		if !strings.HasSuffix(path, gzipSuffix) {
			return report.Write(f, run)
		}
		z := gzip.NewWriter(f)
		return errors.Join(report.Write(z, run), z.Close())
	})
}

// readRun reads a run from a file.
func readRun(cmd *cobra.Command, path string) (*report.Run, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usageError(cmd, err, "bucketring bench run --out "+path)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var from io.Reader = file
	if strings.HasSuffix(path, gzipSuffix) {
		if from, err = gzip.NewReader(file); err != nil {
			return nil, errorWithHint(fmt.Errorf("%s: %w", path, err), "pass a file that bucketring bench run --out has written")
		}
	}
	run, err := report.Read(from)
	if err != nil {
		return nil, errorWithHint(fmt.Errorf("%s: %w", path, err), "pass a file that bucketring bench run --out has written")
	}
	return run, nil
}

// checkWritable returns an error if a file cannot be written, before the run starts.
func checkWritable(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory", path)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".bucketring-bench-")
	if err != nil {
		if at, ok := errors.AsType[*fs.PathError](err); ok {
			err = at.Err // omits the name of the temporary file
		}
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return errors.Join(file.Close(), os.Remove(file.Name()))
}

// writeFile replaces a file atomically: on an error, the old file stays.
func writeFile(path string, write func(*os.File) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".bucketring-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	if err := errors.Join(write(file), file.Chmod(0o644), file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(file.Name(), path)
}
