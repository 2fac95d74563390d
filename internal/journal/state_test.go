// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/binary"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"
)

// testPartitions is the number of partitions in tests.
const testPartitions = 6

// testState is a State whose change number n of a partition sets a key to n.
type testState struct {
	mu         sync.Mutex
	partitions [testPartitions]testPartition
	snapshots  int
}

type testPartition struct {
	log    []uint64 // the keys that were set, from the first change on
	values map[uint64]uint64
	start  uint64 // changes up to this one are not listed any more
	copy   Copy
	absent bool
}

func newTestState() *testState {
	s := &testState{}
	for p := range s.partitions {
		s.partitions[p] = testPartition{values: map[uint64]uint64{}, copy: Copy{Complete: true}}
	}
	return s
}

// set is a change of a partition.
func (s *testState) set(partition int, key uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.partitions[partition]
	p.log = append(p.log, key)
	p.values[key] = uint64(len(p.log))
	p.copy.Seq++
}

// forgetList makes a partition forget its list of changes.
func (s *testState) forgetList(partition int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.partitions[partition].start = s.partitions[partition].copy.Seq
}

// after returns the values after the first n changes of a partition.
func (p *testPartition) after(n uint64) map[uint64]uint64 {
	values := map[uint64]uint64{}
	for i, key := range p.log[:n] {
		values[key] = uint64(i) + 1
	}
	return values
}

func (s *testState) Seq(partition int) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.partitions[partition].copy.Seq
}

func (s *testState) copyOf(partition int) (Copy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.partitions[partition]
	c := p.copy
	c.Seq = 0
	return c, !p.absent
}

func appendValues(buf []byte, values map[uint64]uint64, after uint64) []byte {
	n := 0
	var list []byte
	for key, value := range values {
		if value > after {
			n++
			list = binary.AppendUvarint(binary.AppendUvarint(list, key), value)
		}
	}
	return append(binary.AppendUvarint(buf, uint64(n)), list...)
}

func readValues(r *payloadReader, to map[uint64]uint64) {
	for n := r.uint(); n > 0 && !r.bad; n-- {
		key, value := r.uint(), r.uint()
		to[key] = value
	}
}

func (s *testState) Changes(of []Cursor, buf []byte, limit int) (message []byte, done int, wall int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	begin := len(buf)
	for i := range of {
		if len(buf)-begin >= limit {
			return buf, i, 1
		}
		c := &of[i]
		p := &s.partitions[c.Partition]
		if c.Listed = c.After >= p.start && c.After <= p.copy.Seq; !c.Listed {
			continue
		}
		if c.Through = p.copy.Seq; c.Through != c.After {
			buf = binary.AppendUvarint(binary.AppendUvarint(buf, uint64(c.Partition)), c.Through)
			buf = appendValues(buf, p.values, c.After)
		}
	}
	return buf, len(of), 1
}

func (s *testState) Snapshot(partition int, buf []byte) (data []byte, seq uint64, wall int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots++
	p := &s.partitions[partition]
	return appendValues(buf, p.values, 0), p.copy.Seq, 1
}

func (s *testState) Forget(partition int, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &s.partitions[partition]
	p.start = max(p.start, min(seq, p.copy.Seq))
}

func (s *testState) Restore(partition int, data []byte, seq uint64, _ int64) error {
	p := &s.partitions[partition]
	p.values = map[uint64]uint64{}
	p.copy.Seq = seq
	r := payloadReader{buf: data}
	readValues(&r, p.values)
	if r.bad || len(r.buf) > 0 {
		return errors.New("invalid snapshot")
	}
	return nil
}

func (s *testState) Apply(message []byte, _ int64, wanted func(partition int) bool) error {
	r := payloadReader{buf: message}
	for len(r.buf) > 0 {
		number := r.partition(testPartitions)
		seq, values := r.uint(), map[uint64]uint64{}
		if readValues(&r, values); r.bad {
			return errors.New("invalid message")
		}
		if wanted(number) {
			p := &s.partitions[number]
			maps.Copy(p.values, values)
			p.copy.Seq = seq
		}
	}
	return nil
}

func (s *testState) Clear(partition int) {
	s.partitions[partition].values = map[uint64]uint64{}
	s.partitions[partition].copy.Seq = 0
}

// open opens a journal in fs with a new state.
func open(t testing.TB, fs FS) (*Journal, *testState) {
	t.Helper()
	s := newTestState()
	j, err := Open(testOptions(fs, s))
	if err != nil {
		t.Fatal(err)
	}
	return j, s
}

func testOptions(fs FS, s *testState) Options {
	return Options{FS: fs, Partitions: testPartitions, State: s, Copy: s.copyOf, MaxSize: 300}
}

// settle completes what is pending, and syncs.
func settle(t testing.TB, j *Journal) {
	t.Helper()
	if j.isFailed() {
		j.restart()
	}
	j.collect()
	if j.isPending() {
		j.snapshotAll(t.Context())
	}
	j.sync()
	j.compact(time.Now().Add(time.Hour))
	if err := j.Status().Failing; err != "" {
		t.Fatalf("Failing = %s, want nothing", err)
	}
}
