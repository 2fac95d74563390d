// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"maps"
	"testing"
)

// What an owner sends to its heir is written as it is, all that waits at once. If that fails,
// nothing counts as written, and the changes are read again.
func TestMessagesOfAnOwner(t *testing.T) {
	for _, fails := range []bool{false, true} {
		fs := newMemFS()
		j, s := open(t, fs)
		settle(t, j)
		for n := range uint64(3) {
			s.set(0, n)
			data, _, _ := s.Changes([]Cursor{{Partition: 0, After: n}}, nil, 1<<20)
			j.Applied(data, 1, []Section{{Partition: 0, After: n, Through: n + 1, Complete: true}})
		}
		writes := 0
		fs.fault = func(op, _ string, size int) (int, error) {
			if op != "write" {
				return size, nil
			}
			if writes++; fails && writes == 1 {
				return 0, errors.New("disk is full")
			}
			return size, nil
		}
		j.collect()
		if want := (Copy{Seq: 3, Complete: true}); fails {
			want.Seq = 0
			if got := j.written[0].Copy; got.Seq != 0 {
				t.Errorf("after a failed write the journal has %v, want %v", got, want)
			}
			j.collect()
		} else if got := j.written[0].Copy; got != want || writes != 1 {
			t.Errorf("the journal has %v after %d writes, want %v after one", got, writes, want)
		}
		j.sync()
		_, got := open(t, fs.powerLost())
		if want := (map[uint64]uint64{0: 1, 1: 2, 2: 3}); !maps.Equal(got.partitions[0].values, want) {
			t.Errorf("fails %t: partition 0 = %v, want %v", fails, got.partitions[0].values, want)
		}
	}
}
