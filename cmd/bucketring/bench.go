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
	cmd := group(&cobra.Command{
		Use:   "bench",
		Short: "Measure how fast and how exact a limiter is",
		Long: `Put load on a limiter, measure its latency from the time at which each call was
due, and audit its answers: was more admitted than the limits allow, or anything
charged twice?

The target is a cluster that the bench starts itself, one that runs somewhere, or
what people use instead, side by side.`,
		Example: `  bucketring bench run --local 3 --for 10s
  bucketring bench report run.json -o report.html
  bucketring bench compare before.json after.json --fail-over 5%`,
	})
	for _, c := range []*cobra.Command{newBenchRun(s), newBenchReport(s), newBenchCompare(s)} {
		c.Flags().SortFlags = false
		cmd.AddCommand(c)
	}
	return cmd
}

// packed ends the names of documents that are compressed.
const packed = ".gz"

// writeRun writes the document of a run.
func writeRun(path string, run *report.Run) error {
	return writeFile(path, func(f *os.File) error {
		if !strings.HasSuffix(path, packed) {
			return report.Write(f, run)
		}
		z := gzip.NewWriter(f)
		return errors.Join(report.Write(z, run), z.Close())
	})
}

// readRun reads the document of a run.
func readRun(cmd *cobra.Command, path string) (*report.Run, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, misused(cmd, err, "bucketring bench run --out "+path)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var from io.Reader = file
	if strings.HasSuffix(path, packed) {
		if from, err = gzip.NewReader(file); err != nil {
			return nil, failed(fmt.Errorf("%s: %w", path, err), "is it a file that bench run --out has written?")
		}
	}
	run, err := report.Read(from)
	if err != nil {
		return nil, failed(fmt.Errorf("%s: %w", path, err), "is it a file that bench run --out has written?")
	}
	return run, nil
}

// writable reports whether a file can be written, before it costs a run.
func writable(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory", path)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".bucketring-bench-")
	if err != nil {
		if at, ok := errors.AsType[*fs.PathError](err); ok {
			err = at.Err // it names a file that nobody knows
		}
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return errors.Join(file.Close(), os.Remove(file.Name()))
}

// writeFile writes a whole file, or leaves what was there before.
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
