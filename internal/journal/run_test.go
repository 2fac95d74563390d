// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/snapshotfile"
	"github.com/bucketring/bucketring/internal/waittest"
)

// Changes, messages, status and snapshots run at the same time as the journal.
func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by Open")
	s := newTestState()
	o := Options{
		Dir: dir, Partitions: testPartitions, State: s, Copy: s.copyOf,
		CollectEvery: time.Millisecond, SyncEvery: 2 * time.Millisecond, MaxSize: 1000,
	}
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !errors.Is(err, snapshotfile.ErrLocked) {
		t.Errorf("Open of a directory in use = %v, want ErrLocked", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := j.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	for p := range testPartitions {
		running.Go(func() {
			for i := uint64(0); ctx.Err() == nil; i++ {
				s.set(p, i%100)
				j.Applied([]byte("not needed"), 1, []Section{{Partition: p, After: 1 << 40, Through: 1<<40 + 1}})
				j.Status()
			}
		})
	}
	waittest.Until(t, "several generations", func() bool { return j.Status().Generation > 4 })
	waittest.Until(t, "changes on disk", func() bool { return j.Durable(3) > 100 })
	stop()
	running.Wait()
	if err := errors.Join(j.Flush(), j.Close()); err != nil {
		t.Fatal(err)
	}
	for p := range s.partitions {
		if got, want := j.Durable(p), s.Seq(p); got != want {
			t.Errorf("Durable(%d) = %d, want %d", p, got, want)
		}
	}
	got := newTestState()
	o.State, o.Copy = got, got.copyOf
	j, err = Open(o)
	if err != nil {
		t.Fatal(err)
	}
	for p := range got.partitions {
		if got, want := got.Seq(p), s.Seq(p); got != want {
			t.Errorf("partition %d restored as of %d, want %d", p, got, want)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: filepath.Join(file, "data"), Partitions: 1, State: newTestState()}); err == nil {
		t.Error("Open below a file = nil, want an error")
	}
}
