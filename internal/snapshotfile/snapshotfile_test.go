// SPDX-License-Identifier: Apache-2.0

package snapshotfile

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const generation = 7

// encode returns a snapshot with the state of partitions.
func encode(t testing.TB, state []Section) []byte {
	t.Helper()
	var file bytes.Buffer
	w := NewWriter(&file, generation)
	for i := range state {
		if err := w.Add(&state[i]); err != nil {
			t.Fatal(err)
		}
	}
	if size, err := w.Finish(); err != nil || size != int64(file.Len()) {
		t.Fatalf("Finish = %d, %v, want %d", size, err, file.Len())
	}
	return file.Bytes()
}

// restored returns the state in a file.
func restored(file []byte) (state []Section, err error) {
	err = Read(bytes.NewReader(file), int64(len(file)), generation, func(s *Section) error {
		c := *s
		c.Data = bytes.Clone(s.Data)
		state = append(state, c)
		return nil
	})
	return state, err
}

func TestRoundTrip(t *testing.T) {
	for _, state := range [][]Section{
		nil,
		{{Partition: 0, Data: []byte("a")}},
		{{Partition: 0, Wall: -1, Position: 1, Origin: 2, Seq: 3, Complete: true, Data: []byte("long")}, {Partition: 3, Data: bytes.Repeat([]byte("x"), 1<<17)}, {Partition: 7, Data: []byte("z")}},
		{{Partition: 5, Position: 1 << 63, Origin: 1 << 63, Seq: 1 << 63, Data: []byte("e")}},
	} {
		got, err := restored(encode(t, state))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(state, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// Every flipped bit and every cut is found, and nothing is restored.
func TestDamageIsFound(t *testing.T) {
	good := encode(t, []Section{{Partition: 1, Wall: 42, Data: []byte("hello")}, {Partition: 6, Data: []byte("world")}})
	check := func(what string, bad []byte) {
		t.Helper()
		if state, err := restored(bad); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) || len(state) > 0 {
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
	other := bytes.Clone(good)
	other[len(product)]++
	if _, err := restored(other); !errors.Is(err, ErrVersion) {
		t.Errorf("Read of another version = %v, want ErrVersion", err)
	}
}

func TestRestoreErrorIsReturned(t *testing.T) {
	file := encode(t, []Section{{Partition: 1, Data: []byte("hello")}})
	cause := errors.New("cause")
	if err := Read(bytes.NewReader(file), int64(len(file)), generation, func(*Section) error { return cause }); !errors.Is(err, cause) {
		t.Errorf("Read = %v, want %v", err, cause)
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
	f.Add(encode(f, []Section{{Partition: 1, Data: []byte("state")}, {Partition: 2}}))
	f.Add([]byte(product))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = restored(data) // must not panic
	})
}
