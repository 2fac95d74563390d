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

// A partition that changes much is written several times between two looks at all of them.
func TestHotPartitionsAreWrittenMoreOften(t *testing.T) {
	s := newTestState()
	j, err := Open(Options{Dir: t.TempDir(), Partitions: testPartitions, State: s, Copy: s.copyOf})
	if err != nil {
		t.Fatal(err)
	}
	change := func(partition, times int) {
		for i := range times {
			s.set(partition, uint64(i%100))
		}
	}
	change(1, 1)
	change(2, 1)
	j.collect() // both in full
	change(1, hotChanges)
	change(2, hotChanges-1)
	j.collect()
	for tick := range hotTicks - 1 {
		change(1, 3)
		change(2, 3)
		j.collectHot()
		if got, want := j.written[1].Seq, s.Seq(1); got != want {
			t.Errorf("tick %d: the hot partition is written up to %d, want %d", tick, got, want)
		}
		if got, want := j.written[2].Seq, uint64(hotChanges); got != want {
			t.Errorf("tick %d: the other is written up to %d, want %d", tick, got, want)
		}
	}
	j.collect()
	if len(j.hot) != 0 || j.written[2].Seq != s.Seq(2) {
		t.Errorf("hot: %v, the other is written up to %d of %d", j.hot, j.written[2].Seq, s.Seq(2))
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
