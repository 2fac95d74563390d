// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/internal/journal"
	"github.com/bucketring/bucketring/internal/snapshotfile"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/replication"
)

// testKeeper is an engine with its journal and a manual clock.
type testKeeper struct {
	t       *testing.T
	journal *journal.Journal
	engine  *limiter.Engine
	clock   limiter.Time
	plan    limiter.Plan
	log     bytes.Buffer
}

// tryBoot opens dir at a wall clock.
func tryBoot(t *testing.T, dir string, wall time.Time) (*testKeeper, error) {
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
	w := &testKeeper{t: t, clock: limiter.Time{Mono: int64(clockStart), Wall: wall.UnixNano()}}
	w.plan = limiter.Plan{Tier: "t", Count: 1, Rates: limiter.Rates{Priced: true, InputPrice: 100_000_000, OutputPrice: 100_000_000, Weights: limiter.DefaultWeights}}
	w.plan.Levels[0] = limiter.Level{End: len("acme"), Tier: "t", Limits: set}
	w.engine = limiter.New(limiter.Options{Catalog: catalog})
	w.journal, err = openJournal(journal.Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&w.log, nil))}, newChangeLists(w.engine), func() limiter.Time { return w.clock })
	if err != nil {
		return w, err
	}
	openPartitions(w.journal, w.engine)
	t.Cleanup(func() { _ = w.journal.Close() })
	return w, nil
}

func boot(t *testing.T, dir string, wall time.Time) *testKeeper {
	t.Helper()
	w, err := tryBoot(t, dir, wall)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// save writes all changes to the journal, as a shutdown does.
func (w *testKeeper) save() {
	w.t.Helper()
	if err := w.journal.Flush(); err != nil {
		w.t.Fatal(err)
	}
}

// close ends the use of the directory, as the end of the process does.
func (w *testKeeper) close() {
	w.t.Helper()
	if err := w.journal.Close(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *testKeeper) pass(d time.Duration) { w.clock = w.clock.Add(d) }

func (w *testKeeper) request(tokens int64) *limiter.Request {
	return &limiter.Request{Key: "acme", Plan: &w.plan, InputTokens: tokens}
}

// left returns what remains of tokens, of spend and of slots.
func (w *testKeeper) left() [3]int64 {
	w.t.Helper()
	var d limiter.Decision
	w.engine.Peek(w.clock, w.request(0), &d)
	var left [3]int64
	for i, l := range d.Limits {
		left[i] = l.Remaining
	}
	return left
}

func (w *testKeeper) reserve(id string, tokens int64, ttl time.Duration) limiter.Outcome {
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
		for _, in := range []string{"snapshot", "journal"} {
			t.Run(test.name+" in the "+in, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "made", "by the journal")
				before := boot(t, dir, noon)
				if in == "journal" {
					before.save() // the snapshot is empty
				}
				before.pass(3 * time.Second)
				if got := before.reserve("r1", 4000, 40*time.Second); got != limiter.Allowed {
					t.Fatalf("Reserve = %s, want allowed", got)
				}
				before.save()
				before.close()

				after := boot(t, dir, noon.Add(3*time.Second+test.downtime))
				if got := after.left(); got != test.want {
					t.Errorf("left after %s = %v, want %v", test.downtime, got, test.want)
				}
			})
		}
	}
}

// Repeated restarts lose nothing.
func TestManyRestarts(t *testing.T) {
	dir := t.TempDir()
	last := boot(t, dir, noon)
	last.reserve("r1", 6000, time.Hour)
	for i := range 30 {
		last.save()
		last.close()
		last = boot(t, dir, noon.Add(time.Duration(i/3+1)*time.Second))
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
	boot(t, dir, noon)
	if _, err := tryBoot(t, dir, noon); !errors.Is(err, snapshotfile.ErrLocked) {
		t.Errorf("open a directory in use = %v, want ErrLocked", err)
	}
}

func TestCorruptSnapshotIsRenamed(t *testing.T) {
	dir := t.TempDir()
	w := boot(t, dir, noon)
	w.reserve("r1", 4000, time.Minute)
	w.save()
	w.close()
	snapshots, err := filepath.Glob(filepath.Join(dir, "snapshot-*"))
	if err != nil || len(snapshots) != 1 {
		t.Fatalf("snapshots = %v, %v, want one", snapshots, err)
	}
	path := snapshots[0]
	damaged, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(damaged)/2] ^= 1
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}

	w, err = tryBoot(t, dir, noon)
	if err == nil || !strings.Contains(err.Error(), "corrupt") || !strings.Contains(err.Error(), "renamed to") {
		t.Fatalf("open = %v, want that the file is corrupt and renamed", err)
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

	w = boot(t, dir, noon)
	if !strings.Contains(w.log.String(), "is not counted") {
		t.Errorf("log = %s, want a warning", w.log.String())
	}
}

// Whatever was decided, a node that reads the journal has the state of the one that wrote it.
func TestJournalIsTheState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		w := boot(t, dir, noon)
		states := func() (all []string) {
			for i := range 12 {
				var d limiter.Decision
				w.engine.Peek(w.clock, &limiter.Request{Key: fmt.Sprintf("acme%d", i), Plan: &w.plan}, &d)
				text := ""
				for _, l := range d.Limits {
					text += fmt.Sprintf("%+v, ", l)
				}
				all = append(all, text)
			}
			return all
		}
		reboot := func() {
			w.save()
			before, wall := states(), w.clock.Wall
			w.close()
			w = boot(t, dir, time.Unix(0, wall))
			w.plan.Levels[0].End = len("acme0")
			if after := states(); !slices.Equal(before, after) {
				rt.Fatalf("after a restart:\n%q\nwant\n%q", after, before)
			}
		}
		w.plan.Levels[0].End = len("acme0")
		rt.Repeat(map[string]func(*rapid.T){
			"reserve": func(rt *rapid.T) {
				r := w.request(rapid.Int64Range(1, 4000).Draw(rt, "tokens"))
				r.Key = fmt.Sprintf("acme%d", rapid.IntRange(0, 9).Draw(rt, "key"))
				r.ID, r.TTL = fmt.Sprintf("r%d", rapid.IntRange(0, 5).Draw(rt, "id")), time.Duration(rapid.IntRange(1, 60).Draw(rt, "ttl"))*time.Second
				var d limiter.Decision
				_ = w.engine.Reserve(w.clock, r, &d) // a conflict changes nothing
			},
			"settle": func(rt *rapid.T) {
				u := limiter.Usage{Key: fmt.Sprintf("acme%d", rapid.IntRange(0, 9).Draw(rt, "key")), ID: fmt.Sprintf("r%d", rapid.IntRange(0, 5).Draw(rt, "id"))}
				u.InputTokens, u.Final = rapid.Int64Range(0, 6000).Draw(rt, "usage"), rapid.Bool().Draw(rt, "final")
				var d limiter.Decision
				_ = w.engine.Settle(w.clock, &u, &d)
			},
			"cancel": func(rt *rapid.T) {
				var d limiter.Decision
				_ = w.engine.Cancel(w.clock, fmt.Sprintf("acme%d", rapid.IntRange(0, 9).Draw(rt, "key")), fmt.Sprintf("r%d", rapid.IntRange(0, 5).Draw(rt, "id")), &d)
			},
			"pass":  func(rt *rapid.T) { w.pass(time.Duration(rapid.IntRange(0, 20).Draw(rt, "seconds")) * time.Second) },
			"flush": func(*rapid.T) { w.save() },
			"reboot": func(rt *rapid.T) {
				if rapid.IntRange(0, 4).Draw(rt, "whether") == 0 {
					reboot()
				}
			},
		})
		reboot()
	})
}

// openPartitions has the engine decide for all partitions.
func openPartitions(j *journal.Journal, engine *limiter.Engine) {
	for p := range limiter.Partitions {
		c, _ := j.Restored(p)
		engine.Open(p, c.Seq)
	}
}

// What an owner sends to its heir is in the journal without being read again.
func TestJournalHasWhatHeirsAreSent(t *testing.T) {
	dir := t.TempDir()
	now := func() limiter.Time { return limiter.Time{Mono: int64(clockStart), Wall: noon.UnixNano()} }
	w := boot(t, dir, noon)
	lists := newChangeLists(w.engine)
	lists.to = w.journal
	sent := replicated{
		replication.LimiterEngine(w.engine, time.LoadLocation), lists, now,
		func(int) (journal.Copy, bool) { return journal.Copy{Complete: true}, true },
	}.NewChanges()
	w.save() // the snapshot is empty
	part := limiter.PartitionOf("acme")
	before := w.engine.Seq(part)
	w.reserve("r1", 4000, time.Minute)
	through, ok := sent.Append(w.clock, part, before)
	if !ok || through <= before {
		t.Fatalf("Append = %d, %t, want changes after %d", through, ok, before)
	}
	message := slices.Clone(sent.Message())
	w.engine.Track(part, false) // the journal could not read it
	w.save()
	left := w.left()
	w.close()
	files, err := filepath.Glob(filepath.Join(dir, "journal*"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(files, func(name string) bool {
		content, err := os.ReadFile(name)
		return err == nil && bytes.Contains(content, message)
	}) {
		t.Errorf("none of %v has the message for the heir", files)
	}
	if got := boot(t, dir, noon).left(); got != left {
		t.Errorf("after a restart %v are left, want %v", got, left)
	}
}
