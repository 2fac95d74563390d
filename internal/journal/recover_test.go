// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"
)

// sampleFS returns files with a snapshot and a journal of several blocks, of which all but
// the last were synced, the offsets of the blocks, and the state.
func sampleFS(t *testing.T) (fs *memFS, blocks []int64, state *testState) {
	t.Helper()
	fs = newMemFS()
	j, s := open(t, fs)
	settle(t, j)
	for i := range 5 {
		blocks = append(blocks, j.size)
		for p := range testPartitions {
			s.set(p, uint64(i))
		}
		if j.collect(); i < 4 {
			j.sync()
		}
	}
	blocks = append(blocks, j.size)
	return fs, blocks, s
}

// check compares what a new process finds with the state after n blocks of sampleFS.
func checkBlocks(t *testing.T, what string, fs *memFS, n int) {
	t.Helper()
	_, got := open(t, fs)
	for p := range got.partitions {
		is := &got.partitions[p]
		if is.copy.Seq != uint64(n) || len(is.values) != n {
			t.Fatalf("%s: partition %d restored as of change %d with %d values, want %d", what, p, is.copy.Seq, len(is.values), n)
		}
	}
}

// A crash may end the file anywhere after what was synced, or fill it with zeros from there.
func TestTornEndIsCutOff(t *testing.T) {
	fs, blocks, _ := sampleFS(t)
	name := journalName(1)
	all := fs.names[name].data
	for size := blocks[1]; size <= int64(len(all)); size++ {
		n := 0
		for blocks[n+1] <= size {
			if n++; n == 5 {
				break
			}
		}
		torn := fs.killed()
		torn.names[name].data = bytes.Clone(all[:size])
		checkBlocks(t, fmt.Sprintf("cut at byte %d", size), torn, n)

		torn = fs.killed()
		clear(torn.names[name].data[size:])
		if size < blocks[4] {
			// All after it is zero, so nothing proves that it was on disk.
			checkBlocks(t, fmt.Sprintf("zeros from byte %d", size), torn, n)
		}
	}
	// The next start reads the same, although another journal follows the torn one.
	torn := fs.killed()
	torn.names[name].data = bytes.Clone(all[:blocks[5]-1])
	j, s := open(t, torn)
	s.set(2, 9)
	j.collect()
	j.sync()
	if _, got := open(t, torn.powerLost()); got.partitions[2].copy.Seq != 5 || got.partitions[3].copy.Seq != 4 {
		t.Errorf("restored as of %d and %d, want 5 and 4", got.partitions[2].copy.Seq, got.partitions[3].copy.Seq)
	}
}

// Every flipped bit in what was on disk is found. The file is kept aside, and the next start
// has what was before the damage.
func TestDamageIsKeptAside(t *testing.T) {
	fs, blocks, _ := sampleFS(t)
	name := journalName(1)
	for at := range blocks[3] {
		bad := fs.killed()
		bad.names[name].data[at] ^= 1 << (at % 8)
		damaged := bytes.Clone(bad.names[name].data)
		_, err := Open(testOptions(bad, newTestState()))
		var damage *DamageError
		var version *VersionError
		if at == int64(len(product)) {
			if !errors.As(err, &version) || bad.names[name] == nil {
				t.Fatalf("bit of byte %d flipped: Open = %v, want a VersionError that changes nothing", at, err)
			}
			continue
		}
		if !errors.As(err, &damage) || damage.File != name || !strings.Contains(err.Error(), "renamed to "+name+corruptSuffix) {
			t.Fatalf("bit of byte %d flipped: Open = %v, want a DamageError", at, err)
		}
		n := 0
		for at >= blocks[n+1] {
			n++
		}
		if at >= int64(headerSize) && damage.Offset != blocks[n] || at < int64(headerSize) && damage.Offset != 0 {
			t.Fatalf("bit of byte %d flipped: offset %d, want %d", at, damage.Offset, blocks[n])
		}
		kept := false
		for name, f := range bad.names {
			kept = kept || strings.Contains(name, corruptSuffix) && bytes.Equal(f.data, damaged)
		}
		if !kept {
			t.Fatalf("bit of byte %d flipped: the damaged file is not kept", at)
		}
		checkBlocks(t, fmt.Sprintf("after damage at byte %d", at), bad, n)
	}
}

func TestDamagedSnapshotIsKeptAside(t *testing.T) {
	fs, _, _ := sampleFS(t)
	bad := fs.killed()
	bad.names[snapshotName(1)].data[9] ^= 1
	if _, err := Open(testOptions(bad, newTestState())); err == nil || !strings.Contains(err.Error(), "without usage") {
		t.Fatalf("Open = %v, want that the next start begins without usage", err)
	}
	checkBlocks(t, "after a damaged snapshot", bad, 0)
}

// sampleChain returns files in which journal-2 continues journal-1.
func sampleChain(t *testing.T) (fs *memFS, state *testState) {
	t.Helper()
	fs, _, _ = sampleFS(t)
	j, s := open(t, fs)
	s.set(1, 77)
	j.collect()
	j.sync()
	return fs, s
}

func TestChainOfJournals(t *testing.T) {
	fs, _ := sampleChain(t)
	if _, got := open(t, fs.powerLost()); got.partitions[1].copy.Seq != 6 || got.partitions[2].copy.Seq != 5 {
		t.Errorf("restored as of %d and %d, want 6 and 5", got.partitions[1].copy.Seq, got.partitions[2].copy.Seq)
	}

	missing := fs.killed()
	delete(missing.names, journalName(1))
	if _, err := Open(testOptions(missing, newTestState())); err == nil || !strings.Contains(err.Error(), "journal-1, which is missing") {
		t.Errorf("Open without journal-1 = %v, want that it is missing", err)
	}
	if missing.names[journalName(2)] == nil {
		t.Error("journal-2 was touched")
	}

	short := fs.killed()
	short.names[journalName(1)].data = short.names[journalName(1)].data[:headerSize+10]
	var damage *DamageError
	if _, err := Open(testOptions(short, newTestState())); !errors.As(err, &damage) || damage.File != journalName(1) {
		t.Errorf("Open with a short journal-1 = %v, want a DamageError of it", err)
	}
	checkBlocks(t, "after a journal that was too short", short, 0)
	for name := range short.names {
		if strings.HasPrefix(name, journalName(2)) && !strings.Contains(name, corruptSuffix) && short.names[name].data[len(product)+1] == 2 && len(short.names[name].data) > headerSize {
			t.Error("journal-2, which continues what is missing, was not kept aside")
		}
	}

	foreign := fs.killed()
	foreign.names[journalName(2)].data = []byte("this is a text that somebody has put here, and not a journal at all")
	if _, err := Open(testOptions(foreign, newTestState())); err == nil || !strings.Contains(err.Error(), "journal-2: corrupt at byte 0: this is no journal") {
		t.Errorf("Open with a foreign journal-2 = %v, want that it is no journal", err)
	}
	checkBlocks(t, "after a foreign file", foreign, 5)
}

// Copies that this node does not own come as messages, or vanish.
func TestCopies(t *testing.T) {
	fs := newMemFS()
	j, s := open(t, fs)
	settle(t, j)
	s.partitions[0].copy = Copy{Origin: 7, Complete: true}
	for range 3 {
		s.set(0, 1)
	}
	s.set(4, 4)
	j.collect()
	s.partitions[4].absent = true

	// A message of the owner brings changes 4 and 5, and one that the journal lacks the
	// begin of brings another partition to 9.
	message := func(partition int, from, through uint64) {
		for range through - s.partitions[partition].copy.Seq {
			s.set(partition, 2)
		}
		s.forgetList(partition)
		of := Cursor{Partition: partition, After: through - 1}
		s.partitions[partition].start = 0
		data, _, _ := s.Changes([]Cursor{of}, nil, 1<<20)
		s.forgetList(partition)
		j.Applied(data, 1, []Section{{Partition: partition, After: from, Through: through, Origin: 8, Complete: false}})
	}
	s.partitions[0].copy.Origin, s.partitions[0].copy.Complete = 8, false
	message(0, 3, 5)
	message(1, 5, 9)
	before := s.snapshots
	j.collect()
	if s.snapshots != before {
		t.Errorf("%d partitions were written as a whole, want none yet", s.snapshots-before)
	}
	j.collect()
	if s.snapshots != before+1 {
		t.Errorf("%d partitions were written as a whole, want the one with a gap", s.snapshots-before)
	}
	j.sync()
	j, got := open(t, fs.powerLost())
	for p, want := range map[int]Copy{0: {Origin: 8, Seq: 5}, 1: {Seq: 9, Complete: true}} {
		if c, ok := j.Restored(p); !ok || c != want {
			t.Errorf("Restored(%d) = %v, %t, want %v", p, c, ok, want)
		}
	}
	if c, ok := j.Restored(4); ok || got.partitions[4].copy.Seq != 0 {
		t.Errorf("Restored(4) = %v, want that it is gone", c)
	}
	if want := (map[uint64]uint64{1: 3, 2: 5}); !maps.Equal(got.partitions[0].values, want) {
		t.Errorf("partition 0 = %v, want %v", got.partitions[0].values, want)
	}
}

// Failures are logged once and shown, whatever fails, until everything is on disk again.
func TestFailuresAreLoud(t *testing.T) {
	for _, op := range []string{"write", "sync", "create", "rename", "sync directory"} {
		t.Run(op, func(t *testing.T) {
			fs := newMemFS()
			s := newTestState()
			var log bytes.Buffer
			o := testOptions(fs, s)
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			j, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			settle(t, j)
			log.Reset()
			fs.fault = func(now, _ string, size int) (int, error) {
				if now == op {
					return size / 2, errFull
				}
				return size, nil
			}
			later := time.Now().Add(time.Hour)
			for i := range 5 {
				for n := range 300 {
					s.set(1, uint64(n))
				}
				j.collect()
				j.sync()
				later = later.Add(time.Hour)
				j.compact(later)
				if j.isPending() || i%2 == 1 {
					j.snapshotAll(t.Context())
				}
			}
			status := j.Status()
			if text := status.Failing + status.SnapshotError; !strings.Contains(text, errFull.Error()) {
				t.Errorf("status = %q, want %q", text, errFull)
			}
			if n := strings.Count(log.String(), "ERROR"); n < 1 || n > 2 {
				t.Errorf("%d errors were logged, want one of the journal, of a snapshot, or of both:\n%s", n, &log)
			}
			fs.fault = nil
			if j.isFailed() {
				j.restart()
			}
			j.collect()
			j.snapshotAll(t.Context())
			j.sync()
			if status := j.Status(); status.Failing+status.SnapshotError != "" {
				t.Errorf("status = %+v, want no failure", status)
			}
			if n := strings.Count(log.String(), "again"); n < 1 {
				t.Errorf("success is not logged:\n%s", &log)
			}
			if _, got := open(t, fs.powerLost()); got.partitions[1].copy.Seq != s.partitions[1].copy.Seq {
				t.Errorf("restored as of %d, want %d", got.partitions[1].copy.Seq, s.partitions[1].copy.Seq)
			}
		})
	}
}

// A journal that has grown is replaced, and what it replaces is deleted.
func TestCompaction(t *testing.T) {
	fs := newMemFS()
	j, s := open(t, fs)
	settle(t, j)
	for i := range 2000 {
		s.set(i%testPartitions, uint64(i%50))
		if i%10 == 9 {
			j.collect()
			j.sync()
			if j.compact(time.Now().Add(time.Hour)); j.writing {
				j.snapshotAll(t.Context())
			}
		}
	}
	if j.generation < 5 {
		t.Errorf("generation = %d, want several compactions", j.generation)
	}
	names, err := fs.List()
	if want := []string{journalName(j.generation), snapshotName(j.generation)}; err != nil || len(names) != 2 || names[0] != want[0] || names[1] != want[1] {
		t.Errorf("files = %v, want %v", names, want)
	}
}

func FuzzReadJournal(f *testing.F) {
	fs := newMemFS()
	j, s := open(f, fs)
	s.set(1, 1)
	if err := j.Flush(); err != nil {
		f.Fatal(err)
	}
	f.Add(fs.names[journalName(1)].data)
	f.Fuzz(func(_ *testing.T, data []byte) {
		bad := fs.killed()
		bad.names[journalName(1)].data = data
		_, _ = Open(testOptions(bad, newTestState())) // must not panic
	})
}
