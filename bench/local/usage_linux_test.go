// SPDX-License-Identifier: Apache-2.0

package local

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

func TestProcessUsage(t *testing.T) {
	t.Parallel()
	before, err := ProcessUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before.RSS < 1<<20 || before.RSS > 64<<30 {
		t.Errorf("RSS = %d, want some MiB", before.RSS)
	}
	began := time.Now()
	var after Usage
	waittest.Until(t, "50ms of processor time", func() bool {
		for i := range 100_000_000 {
			before.RSS += int64(i & 1)
		}
		if after, err = ProcessUsage(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		return after.CPU >= before.CPU+50*time.Millisecond
	})
	if took := time.Since(began); after.CPU-before.CPU > 1000*took {
		t.Errorf("CPU = %s in %s", after.CPU-before.CPU, took)
	}
	if _, err := ProcessUsage(1 << 30); err == nil {
		t.Error("ProcessUse of nobody = nil, want an error")
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	const rest = "S 1 2 3 0 -1 4194560 1 2 3 4 250 150 7 8 20 0 9 0 100 200000 321 18446744073709551615"
	want := Usage{CPU: 4 * time.Second, RSS: 321 * int64(os.Getpagesize())}
	for _, name := range []string{"bucketring", "a b", "a) S 1 (", ""} {
		if got, err := parseStat([]byte("7 (" + name + ") " + rest + "\n")); err != nil || got != want {
			t.Errorf("stat of %q = %+v, %v, want %+v", name, got, err, want)
		}
	}
	for _, text := range []string{"", "7", "7 (a) S 1 2", "7 (a) " + strings.Replace(rest, "250", "x", 1)} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("stat %q = %+v, want an error", text, got)
		}
	}
}
