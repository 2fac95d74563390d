// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// interruptedContext calls step before each partition of a snapshot.
type interruptedContext struct {
	context.Context
	step func()
	err  error
}

func (c *interruptedContext) Err() error {
	if c.err == nil {
		c.step()
	}
	return c.err
}

// world is a journal that is used, disturbed and crashed at random.
type world struct {
	t       *rapid.T
	fs      *memFS
	journal *Journal
	state   *testState
	floor   [testPartitions]uint64 // of Durable
	faults  bool
	failed  string // the last operation that failed
	crashes int
}

func (w *world) int(label string, n int) int { return rapid.IntRange(0, n-1).Draw(w.t, label) }

// fault fails one operation in three while faults is set, except the truncation after a
// failed fsync: if that fails too, the memory of the system is all that a start can see.
func (w *world) fault(op, _ string, size int) (int, error) {
	if !w.faults || w.int("fault", 3) > 0 || op == "truncate" && w.failed == "sync" {
		return size, nil
	}
	w.failed = op
	err := errFull
	if w.int("error", 2) == 0 {
		err = errIO
	}
	if op == "write" {
		return w.int("written", size+1), err
	}
	return 0, err
}

func (w *world) change() {
	for range w.int("changes", 20) {
		w.state.set(w.int("partition", testPartitions), uint64(w.int("key", 30)))
	}
	if w.int("forget", 10) == 0 {
		w.state.forgetList(w.int("partition", testPartitions))
	}
}

// write does something that the goroutine of step does.
func (w *world) write() {
	j := w.journal
	switch w.int("write", 5) {
	case 0:
		j.sync()
	case 2:
		j.hot = append(j.hot[:0], w.int("hot", testPartitions), w.int("hot", testPartitions))
		j.collectHot()
	case 1:
		if j.isFailed() {
			j.restart()
		}
	default:
		j.collect()
	}
}

// snapshot writes a snapshot, while other things happen. It returns false if a crash has
// ended it.
func (w *world) snapshot() (after *memFS) {
	ctx := &interruptedContext{Context: w.t.Context()}
	ctx.step = func() {
		switch w.int("during snapshot", 12) {
		case 0:
			after, ctx.err = w.lose(), context.Canceled
		case 1, 2, 3:
			w.change()
			w.write()
		}
	}
	w.journal.snapshotAll(ctx)
	return after
}

func (w *world) lose() *memFS {
	if w.int("kill", 2) == 0 {
		return w.fs.killed()
	}
	return w.fs.powerLost()
}

// crash continues in fs, and checks what was restored.
func (w *world) crash(fs *memFS) {
	w.crashes++
	before, journal := w.state, w.journal
	w.faults = false
	w.fs, w.state = fs, newTestState()
	w.fs.chaos = func(n int) int { return w.int("chaos", n) }
	var err error
	if w.journal, err = Open(testOptions(w.fs, w.state)); err != nil {
		w.t.Fatalf("Open after a crash = %v, want nil", err)
	}
	w.fs.fault = w.fault
	for p := range w.state.partitions {
		was, is := &before.partitions[p], &w.state.partitions[p]
		durable := max(w.floor[p], journal.Durable(p))
		if is.copy.Seq < durable || is.copy.Seq > was.copy.Seq {
			w.t.Fatalf("partition %d restored as of change %d, want %d to %d", p, is.copy.Seq, durable, was.copy.Seq)
		}
		if want := was.after(is.copy.Seq); !maps.Equal(is.values, want) {
			w.t.Fatalf("partition %d restored as of change %d: %v, want %v", p, is.copy.Seq, is.values, want)
		}
		if c, ok := w.journal.Restored(p); ok != (is.copy.Seq > 0) || c.Seq != is.copy.Seq {
			w.t.Fatalf("Restored(%d) = %v, %t, want change %d", p, c, ok, is.copy.Seq)
		}
		is.log, is.start = was.log[:is.copy.Seq:is.copy.Seq], is.copy.Seq
		w.floor[p] = min(durable, is.copy.Seq)
	}
}

// After a crash at any point the state is that after some change between the last that
// was said to be durable and the last that was made, whatever fails before.
func TestCrashesAndFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, fs: newMemFS()}
		w.state = newTestState()
		w.fs.chaos = func(n int) int { return w.int("chaos", n) }
		var err error
		if w.journal, err = Open(testOptions(w.fs, w.state)); err != nil {
			t.Fatal(err)
		}
		w.fs.fault = w.fault
		t.Repeat(map[string]func(*rapid.T){
			"change": func(*rapid.T) { w.change() },
			"write":  func(*rapid.T) { w.change(); w.write() },
			"step":   func(*rapid.T) { w.change(); w.journal.collect(); w.journal.sync() },
			"compact": func(*rapid.T) {
				w.journal.compact(time.Now().Add(time.Hour))
			},
			"snapshot": func(*rapid.T) {
				if fs := w.snapshot(); fs != nil {
					w.crash(fs)
				}
			},
			"fault":   func(*rapid.T) { w.faults = !w.faults },
			"crash":   func(*rapid.T) { w.crash(w.lose()) },
			"restart": func(*rapid.T) { w.end() },
		})
		w.end()
	})
}

// end ends the process orderly. Nothing is lost then, unless it says so.
func (w *world) end() {
	w.faults = false
	if err := w.journal.Flush(); err != nil {
		w.t.Fatalf("Flush without faults = %v, want nil", err)
	}
	if err := w.journal.Close(); err != nil {
		w.t.Fatal(err)
	}
	for p := range w.state.partitions {
		w.floor[p] = w.state.partitions[p].copy.Seq
	}
	w.crash(w.lose())
}

// A test that cannot fail proves nothing: without an fsync, changes are lost.
func TestCrashesFindLostChanges(t *testing.T) {
	fs := newMemFS()
	j, s := open(t, fs)
	settle(t, j)
	s.set(1, 1)
	j.collect()
	lost := fs.powerLost()
	if _, got := open(t, lost); got.partitions[1].copy.Seq != 0 {
		t.Errorf("a change that was not synced survived a power loss")
	}
	if _, got := open(t, fs.killed()); got.partitions[1].copy.Seq != 1 {
		t.Errorf("a change that was written did not survive the process")
	}
	j.sync()
	if _, got := open(t, fs.powerLost()); got.partitions[1].copy.Seq != 1 {
		t.Errorf("a change that was synced did not survive a power loss")
	}
	if got := j.Durable(1); got != 1 {
		t.Errorf("Durable = %d, want 1", got)
	}
	if err := errors.Join(j.Flush(), j.Close()); err != nil {
		t.Error(err)
	}
}
