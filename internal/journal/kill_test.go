// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// killedDir names the directory of the process that TestKill kills.
const killedDir = "JOURNAL_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killedDir); dir != "" {
		if err := runUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// runUntilKilled changes partitions as fast as it can. For each partition it prints the
// number of the last change that is on disk, and the number of the change that it made last.
func runUntilKilled(dir string) error {
	s := newTestState()
	j, err := Open(Options{
		Dir: dir, Partitions: testPartitions, State: s, Copy: s.copyOf,
		CollectEvery: time.Millisecond, SyncEvery: 3 * time.Millisecond, MaxSize: 100_000,
	})
	if err != nil {
		return err
	}
	for p := range s.partitions {
		is := &s.partitions[p]
		is.log, is.start = make([]uint64, is.copy.Seq), is.copy.Seq
		for key, value := range is.values {
			is.log[value-1] = key
		}
		fmt.Printf("start %d %d\n", p, is.copy.Seq)
	}
	go func() { _ = j.Run(context.Background()) }()
	for i := uint64(0); ; i++ {
		p := int(i % testPartitions)
		s.set(p, keyOf(s.Seq(p)+1))
		if i/testPartitions%64 == 0 {
			fmt.Printf("%d %d %d\n", p, j.Durable(p), s.Seq(p))
		}
	}
}

// keyOf is the key that a change sets. It is the same in each process.
func keyOf(change uint64) uint64 { return change * 0x9E3779B97F4A7C15 >> 32 % 500 }

// A process that is killed at any instant loses nothing that was on disk.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	var durable, last [testPartitions]uint64
	compactions := uint64(0)
	for range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killedDir+"="+dir)
		var problem strings.Builder
		cmd.Stderr = &problem
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		life := time.AfterFunc(time.Duration(20+rand.IntN(150))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var p int
			var a, b uint64
			if n, _ := fmt.Sscanf(lines.Text(), "start %d %d", &p, &a); n == 2 {
				// The last process may have changed more than it has printed.
				if a < durable[p] || a > last[p]+100_000 {
					t.Fatalf("partition %d starts at change %d, want %d to about %d", p, a, durable[p], last[p])
				}
				last[p] = a
				continue
			}
			if n, _ := fmt.Sscanf(lines.Text(), "%d %d %d", &p, &a, &b); n == 3 {
				durable[p], last[p] = a, b
			}
		}
		if err := errors.Join(lines.Err(), out.Close()); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("the process ended with %v before it was killed: %s", err, &problem)
		}
		life.Stop()
	}

	s := newTestState()
	j, err := Open(Options{Dir: dir, Partitions: testPartitions, State: s})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	for p := range s.partitions {
		is := &s.partitions[p]
		for n := range is.copy.Seq {
			is.log = append(is.log, keyOf(n+1))
		}
		for key, value := range is.after(is.copy.Seq) {
			if is.values[key] != value {
				t.Fatalf("partition %d: key %d = %d, want %d", p, key, is.values[key], value)
			}
		}
		compactions = max(compactions, j.generation)
	}
	t.Logf("generation %s after 20 kills; changes on disk: %v", strconv.FormatUint(compactions, 10), durable)
	if durable[0] == 0 {
		t.Error("nothing was ever on disk, so the test proves nothing")
	}
}
