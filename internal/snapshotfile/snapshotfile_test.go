// SPDX-License-Identifier: Apache-2.0

package snapshotfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const partitions = 8

func save(t *testing.T, path string, wall int64, state map[int]string) {
	t.Helper()
	_, err := Write(path, partitions, func(p int, buf []byte) ([]byte, int64) {
		return append(buf, state[p]...), wall + int64(p)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// restored returns the state in path, and the wall clock less the number of each partition.
func restored(path string) (wall int64, state map[int]string, err error) {
	state = map[int]string{}
	err = ReadOld(path, func(p int, data []byte, w int64) error {
		wall, state[p] = w-int64(p), string(data)
		return nil
	})
	return wall, state, err
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for i, state := range []map[int]string{{}, {0: "a"}, {0: "long", 3: string(bytes.Repeat([]byte("x"), 1<<17)), 7: "z"}, {5: "short"}} {
		save(t, path, int64(i)+1, state)
		wall, got, err := restored(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(state, got); diff != "" {
			t.Errorf("state %d (-want +got):\n%s", i, diff)
		}
		if len(state) > 0 && wall != int64(i)+1 {
			t.Errorf("wall = %d, want %d", wall, i+1)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("directory has %d entries (%v), want only the snapshot", len(entries), err)
	}
}

func TestMissingFile(t *testing.T) {
	if _, _, err := restored(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Read = %v, want os.ErrNotExist", err)
	}
}

// Every flipped bit and every cut is found, and nothing is restored.
func TestDamageIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	save(t, path, 42, map[int]string{1: "hello", 6: "world"})
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, bad []byte) {
		t.Helper()
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, state, err := restored(path); !errors.Is(err, ErrCorrupt) || len(state) > 0 {
			t.Errorf("%s: Read = %v, %v, want ErrCorrupt and nothing restored", what, state, err)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("bit of byte %d flipped", i), bad)
		check(fmt.Sprintf("cut to %d bytes", i), good[:i])
	}
	check("a byte more", append(bytes.Clone(good), 0))
}

func TestRestoreErrorIsReturned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	save(t, path, 42, map[int]string{1: "hello"})
	cause := errors.New("cause")
	if err := ReadOld(path, func(int, []byte, int64) error { return cause }); !errors.Is(err, cause) {
		t.Errorf("Read = %v, want %v", err, cause)
	}
}

func TestFailedWriteKeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	save(t, path, 42, map[int]string{1: "old"})
	if err := os.Mkdir(path+".new", 0o700); err != nil { // in the way of the temporary file
		t.Fatal(err)
	}
	if _, err := Write(path, partitions, func(p int, buf []byte) ([]byte, int64) { return append(buf, "new"...), 43 }); err == nil {
		t.Error("Write = nil, want an error")
	}
	if _, state, err := restored(path); err != nil || state[1] != "old" {
		t.Errorf("Read = %v, %v, want the old state", state, err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("Lock of a locked file = %v, want ErrLocked", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Lock(path)
	if err != nil {
		t.Fatalf("Lock after the first was closed = %v, want nil", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzRead(f *testing.F) {
	path := filepath.Join(f.TempDir(), "state")
	if _, err := Write(path, partitions, func(p int, buf []byte) ([]byte, int64) { return append(buf, "state"...), 1 }); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = ReadOld(path, func(int, []byte, int64) error { return nil }) // must not panic
	})
}
