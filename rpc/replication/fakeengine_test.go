// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/bucketring/bucketring/limiter"
)

var errClosed = errors.New("closed")

// fakeEngine charges ids. The charges are its records.
type fakeEngine struct {
	parts []fakePartition
	// applyFails makes the next applications fail.
	mu struct {
		sync.Mutex
		applyFails int
	}
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
	Through uint64
	Charges map[string]fakeCharge
}

func (e *fakeEngine) SnapshotAt(_ limiter.Time, partition int, buf []byte) ([]byte, uint64) {
	p := &e.parts[partition]
	p.Lock()
	defer p.Unlock()
	b, err := json.Marshal(fakeRecords{p.seq, p.charges})
	if err != nil {
		panic(err)
	}
	return append(buf, b...), p.seq
}

func (e *fakeEngine) fails() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.applyFails == 0 {
		return false
	}
	e.mu.applyFails--
	return true
}

func (e *fakeEngine) Restore(_ limiter.Time, partition int, records []byte) error {
	var r fakeRecords
	if err := json.Unmarshal(records, &r); err != nil || e.fails() {
		return fmt.Errorf("restore: %w", errors.Join(err, errClosed))
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
}

func (e *fakeEngine) NewChanges() Changes { return &fakeChanges{engine: e} }

type fakeChanges struct {
	engine *fakeEngine
	added  map[int]fakeRecords
	buf    []byte
}

func (c *fakeChanges) Reset() { c.added = map[int]fakeRecords{} }

func (c *fakeChanges) Append(_ limiter.Time, partition int, after uint64) (uint64, bool) {
	p := &c.engine.parts[partition]
	p.Lock()
	defer p.Unlock()
	if !p.tracked || after < p.start {
		return 0, false
	}
	r := fakeRecords{p.seq, map[string]fakeCharge{}}
	for id, charge := range p.charges {
		if charge.Seq > after {
			r.Charges[id] = charge
		}
	}
	c.added[partition] = r
	return p.seq, true
}

func (c *fakeChanges) Len() int { return len(c.Bytes()) }

func (c *fakeChanges) Bytes() []byte {
	b, err := json.Marshal(c.added)
	if err != nil {
		panic(err)
	}
	c.buf = b
	return b
}

func (e *fakeEngine) ReadChanges(data []byte) (ChangeReader, error) {
	r := &fakeReader{engine: e}
	return r, json.Unmarshal(data, &r.added)
}

type fakeReader struct {
	engine *fakeEngine
	added  map[int]fakeRecords
}

func (r *fakeReader) Apply(_ limiter.Time, partition int, _ uint64) error {
	added, ok := r.added[partition]
	if !ok || r.engine.fails() {
		return errors.New("apply: no such partition, or it is to fail")
	}
	p := &r.engine.parts[partition]
	p.Lock()
	defer p.Unlock()
	if !p.closed {
		panic(fmt.Sprintf("partition %d is open and gets changes", partition))
	}
	maps.Copy(p.charges, added.Charges)
	p.seq = max(p.seq, added.Through)
	return nil
}
