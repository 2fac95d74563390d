// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/bucketring/bucketring/limiter"
)

var errClosed = errors.New("closed")

// fakeEngine charges ids. The charges are its records.
type fakeEngine struct {
	parts []fakePartition
	mu    struct {
		sync.Mutex
		failures []int // of the next applications
	}
	read    sync.Mutex   // held while a copy is read
	reading atomic.Int64 // copies that are being read
}

type fakePartition struct {
	sync.Mutex
	closed, tracked bool
	seq, start      uint64
	charges         map[string]fakeCharge
}

type fakeCharge struct {
	Cost int
	Seq  uint64
}

func newFakeEngine(partitions int) *fakeEngine {
	e := &fakeEngine{parts: make([]fakePartition, partitions)}
	for i := range e.parts {
		e.parts[i].charges = map[string]fakeCharge{}
	}
	return e
}

// charge charges an id once, and returns the number of the change.
func (e *fakeEngine) charge(partition int, id string, cost int) (uint64, error) {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	if p.closed {
		return 0, errClosed
	}
	if c, ok := p.charges[id]; ok {
		return max(c.Seq, p.seq), nil // the heir may lack it
	}
	p.seq++
	p.charges[id] = fakeCharge{cost, p.seq}
	return p.seq, nil
}

// state returns what a partition has.
func (e *fakeEngine) state(partition int) (charges map[string]fakeCharge, closed bool) {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	return maps.Clone(p.charges), p.closed
}

func (e *fakeEngine) Close(partition int) uint64 {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	p.closed = true
	return p.seq
}

func (e *fakeEngine) Open(partition int, seq uint64) {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	p.closed = false
	p.seq = max(p.seq, seq)
}

func (e *fakeEngine) Seq(partition int) uint64 {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	return p.seq
}

func (e *fakeEngine) Track(partition int, on bool) {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	if p.tracked != on {
		p.tracked, p.start = on, p.seq
	}
}

func (e *fakeEngine) ForgetChanges(partition int, seq uint64) {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	p.start = max(p.start, min(seq, p.seq))
}

func (e *fakeEngine) Clear(partition int) {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	if p.closed {
		p.charges, p.seq, p.start = map[string]fakeCharge{}, 0, 0
	}
}

// fakeRecords are records on their way.
type fakeRecords struct {
	Partition int
	Through   uint64
	Charges   map[string]fakeCharge
}

func (e *fakeEngine) SnapshotAt(_ limiter.Time, partition int, buf []byte) ([]byte, uint64) {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	b, err := json.Marshal(fakeRecords{partition, p.seq, p.charges})
	if err != nil {
		panic(err)
	}
	return append(buf, b...), p.seq
}

func (e *fakeEngine) ReadFull(_ limiter.Time, partition int, records []byte) (func(limiter.Time) error, error) {
	e.reading.Add(1)
	defer e.reading.Add(-1)
	e.read.Lock()
	defer e.read.Unlock()
	var r fakeRecords
	if err := json.Unmarshal(records, &r); err != nil {
		return nil, fmt.Errorf("read full: %w", err)
	}
	return func(limiter.Time) error {
		if e.fails() != failNot {
			return fmt.Errorf("apply full: %w", errClosed)
		}
		p := &e.parts[partition]
		p.Lock()
		defer p.Unlock()
		if !p.closed {
			panic(fmt.Sprintf("partition %d is open and gets a copy", partition))
		}
		p.charges, p.seq, p.start = map[string]fakeCharge{}, r.Through, r.Through
		maps.Copy(p.charges, r.Charges)
		return nil
	}, nil
}

func (e *fakeEngine) NewChanges() Changes { return &fakeChanges{engine: e} }

// fakeChanges are JSON, one value after another.
type fakeChanges struct {
	engine *fakeEngine
	buf    []byte
}

func (c *fakeChanges) Reset() { c.buf = c.buf[:0] }

func (c *fakeChanges) Append(_ limiter.Time, partition int, after uint64) (uint64, bool) {
	p := &c.engine.parts[partition]
	p.Lock()
	defer p.Unlock()
	if !p.tracked || after < p.start {
		return 0, false
	}
	if after >= p.seq {
		return p.seq, true
	}
	r := fakeRecords{partition, p.seq, map[string]fakeCharge{}}
	for id, charge := range p.charges {
		if charge.Seq > after {
			r.Charges[id] = charge
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	c.buf = append(c.buf, b...)
	return p.seq, true
}

func (c *fakeChanges) Len() int { return len(c.buf) }

func (c *fakeChanges) Message() []byte { return c.buf }

func (e *fakeEngine) ReadChanges(message []byte) (ChangeReader, error) {
	return &fakeReader{engine: e, decoder: json.NewDecoder(bytes.NewReader(message))}, nil
}

type fakeReader struct {
	engine  *fakeEngine
	decoder *json.Decoder
	current fakeRecords
}

func (r *fakeReader) Next() bool {
	r.current = fakeRecords{}
	return r.decoder.More() && r.decoder.Decode(&r.current) == nil
}

func (r *fakeReader) Section() (partition int, after, through uint64) {
	return r.current.Partition, 0, 0
}

func (r *fakeReader) Close() {}

func (r *fakeReader) Apply(limiter.Time) error {
	partition := r.current.Partition
	p := &r.engine.parts[partition]
	p.Lock()
	defer p.Unlock()
	if !p.closed {
		panic(fmt.Sprintf("partition %d is open and gets changes", partition))
	}
	switch r.engine.fails() {
	case failUnchanged:
		return errors.New("apply: it is to fail")
	case failCleared:
		p.charges, p.seq, p.start = map[string]fakeCharge{}, 0, 0
		return errors.New("apply: it is to fail and to clear the copy")
	}
	maps.Copy(p.charges, r.current.Charges)
	p.seq = max(p.seq, r.current.Through)
	return nil
}

// How the next applications fail.
const (
	failNot = iota
	failUnchanged
	failCleared
)

// fail makes the next applications fail.
func (e *fakeEngine) fail(how ...int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mu.failures = how
}

func (e *fakeEngine) fails() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.mu.failures) == 0 {
		return failNot
	}
	how := e.mu.failures[0]
	e.mu.failures = e.mu.failures[1:]
	return how
}
