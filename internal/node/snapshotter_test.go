// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/snapshotfile"
	"github.com/bucketring/bucketring/limiter"
)

// testSnapshotter is a snapshotter with its engine and a manual clock.
type testSnapshotter struct {
	*snapshotter
	t      *testing.T
	engine *limiter.Engine
	clock  limiter.Time
	plan   limiter.Plan
	log    bytes.Buffer
}

// boot opens dir at a wall clock, with a monotonic clock that starts at 0.
func boot(t *testing.T, dir string, wall time.Time) *testSnapshotter {
	t.Helper()
	catalog := limiter.NewCatalog()
	set, err := catalog.LimitSet([]limiter.Limit{
		{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 6000, Window: time.Minute},
		{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1_000_000, Calendar: limiter.Day},
		{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &testSnapshotter{t: t, clock: limiter.Time{Wall: wall.UnixNano()}}
	w.plan = limiter.Plan{Tier: "t", Count: 1, Rates: limiter.Rates{Priced: true, InputPrice: 100_000_000, OutputPrice: 100_000_000, Weights: limiter.DefaultWeights}}
	w.plan.Levels[0] = limiter.Level{End: len("acme"), Tier: "t", Limits: set}
	w.engine = limiter.New(limiter.Options{Catalog: catalog})
	w.snapshotter, err = newSnapshotter(dir, w.engine, func() limiter.Time { return w.clock }, slog.New(slog.NewTextHandler(&w.log, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.close() })
	return w
}

// reboot closes the snapshotter and opens dir again.
func (w *testSnapshotter) reboot(dir string, wall time.Time) *testSnapshotter {
	w.t.Helper()
	if err := w.close(); err != nil {
		w.t.Fatal(err)
	}
	return boot(w.t, dir, wall)
}

func (w *testSnapshotter) pass(d time.Duration) { w.clock = w.clock.Add(d) }

func (w *testSnapshotter) request(tokens int64) *limiter.Request {
	return &limiter.Request{Key: "acme", Plan: &w.plan, InputTokens: tokens}
}

// left returns what remains of tokens, of spend and of slots.
func (w *testSnapshotter) left() [3]int64 {
	w.t.Helper()
	var d limiter.Decision
	w.engine.Peek(w.clock, w.request(0), &d)
	var left [3]int64
	for i, l := range d.Limits {
		left[i] = l.Remaining
	}
	return left
}

func (w *testSnapshotter) reserve(id string, tokens int64, ttl time.Duration) limiter.Outcome {
	w.t.Helper()
	var d limiter.Decision
	r := w.request(tokens)
	r.ID, r.TTL = id, ttl
	if err := w.engine.Reserve(w.clock, r, &d); err != nil {
		w.t.Fatal(err)
	}
	return d.Outcome
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestRestartKeepsUsage(t *testing.T) {
	for _, test := range []struct {
		name     string
		downtime time.Duration // of the wall clock
		want     [3]int64      // after the restart: 100 tokens a second refill
	}{
		{"at once", 0, [3]int64{2000, 600_000, 0}},
		{"ten seconds", 10 * time.Second, [3]int64{3000, 600_000, 0}},
		{"longer than the lease", 41 * time.Second, [3]int64{6000, 600_000, 1}},
		{"clock set back", -time.Hour, [3]int64{2000, 600_000, 0}},
		{"overnight", 12 * time.Hour, [3]int64{6000, 1_000_000, 1}},
		{"a year", 365 * 24 * time.Hour, [3]int64{6000, 1_000_000, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "made", "by the snapshotter")
			before := boot(t, dir, noon)
			before.pass(3 * time.Second)
			if got := before.reserve("r1", 4000, 40*time.Second); got != limiter.Allowed {
				t.Fatalf("Reserve = %s, want allowed", got)
			}
			if err := before.save(); err != nil {
				t.Fatal(err)
			}

			after := before.reboot(dir, noon.Add(3*time.Second+test.downtime))
			if err := after.restore(); err != nil {
				t.Fatal(err)
			}
			if got := after.left(); got != test.want {
				t.Errorf("left after %s = %v, want %v", test.downtime, got, test.want)
			}
		})
	}
}

// Repeated restarts lose nothing.
func TestManyRestarts(t *testing.T) {
	dir := t.TempDir()
	first := boot(t, dir, noon)
	first.reserve("r1", 6000, time.Hour)
	if err := first.save(); err != nil {
		t.Fatal(err)
	}
	last := first
	for i := range 10 {
		last = last.reboot(dir, noon.Add(time.Duration(i+1)*time.Second))
		if err := last.restore(); err != nil {
			t.Fatal(err)
		}
		if err := last.save(); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := last.left(), ([3]int64{1000, 400_000, 0}); got != want {
		t.Errorf("left = %v, want %v", got, want)
	}
	if got := last.reserve("r1", 6000, time.Hour); got != limiter.Allowed {
		t.Errorf("Reserve with the same id = %s, want the recorded answer, allowed", got)
	}
}

func TestDataDirectoryHasOneUser(t *testing.T) {
	dir := t.TempDir()
	w := boot(t, dir, noon)
	if _, err := newSnapshotter(dir, w.engine, w.now, w.snapshotter.log, prometheus.NewRegistry()); !errors.Is(err, snapshotfile.ErrLocked) {
		t.Errorf("newSnapshotter for a directory in use = %v, want ErrLocked", err)
	}
}

func TestNoSnapshotIsFine(t *testing.T) {
	w := boot(t, t.TempDir(), noon)
	if err := w.restore(); err != nil {
		t.Errorf("restore = %v, want nil", err)
	}
}

func TestCorruptSnapshotIsRenamed(t *testing.T) {
	dir := t.TempDir()
	w := boot(t, dir, noon)
	w.reserve("r1", 4000, time.Minute)
	if err := w.save(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, snapshotName)
	damaged, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(damaged)/2] ^= 1
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}

	w = w.reboot(dir, noon)
	err = w.restore()
	if err == nil || !strings.Contains(err.Error(), "corrupt") || !strings.Contains(err.Error(), "renamed to") {
		t.Fatalf("restore = %v, want that the file is corrupt and renamed", err)
	}
	if got, want := w.left(), ([3]int64{6000, 1_000_000, 1}); got != want {
		t.Errorf("left = %v, want %v: nothing may come from a corrupt file", got, want)
	}
	renamed, err := filepath.Glob(path + ".corrupt-*")
	if err != nil || len(renamed) != 1 {
		t.Fatalf("renamed files = %v, %v, want one", renamed, err)
	}
	if content, err := os.ReadFile(renamed[0]); err != nil || !bytes.Equal(content, damaged) {
		t.Errorf("the renamed file has other content (%v)", err)
	}

	w = w.reboot(dir, noon)
	if err := w.restore(); err != nil {
		t.Fatalf("restore = %v, want a start without the corrupt file", err)
	}
	if !strings.Contains(w.log.String(), "is not counted") {
		t.Errorf("log = %s, want a warning", w.log.String())
	}
}
