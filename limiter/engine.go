// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"hash/maphash"
	"sync"
)

// Partitions is the number of hash slots of the key space. It is part of the
// wire format: all members of a cluster agree on it.
const Partitions = 4096

// Options configure an [Engine]. The zero value works.
type Options struct {
	// Catalog numbers the limits of the policies that drive the engine.
	// Default: a new one, of [Engine.Catalog].
	Catalog *Catalog
	// MaxKeys bounds the records of the engine, MaxKeysPerRoot those under one
	// root. Defaults: 10,000,000 and 1,000,000.
	MaxKeys, MaxKeysPerRoot int
	// MaxIDs bounds the remembered request ids, reservations included.
	// Default: 1,048,576.
	MaxIDs int
}

func (o Options) withDefaults() Options {
	if o.Catalog == nil {
		o.Catalog = NewCatalog()
	}
	if o.MaxKeys <= 0 {
		o.MaxKeys = 10_000_000
	}
	if o.MaxKeysPerRoot <= 0 {
		o.MaxKeysPerRoot = 1_000_000
	}
	if o.MaxIDs <= 0 {
		o.MaxIDs = 1 << 20
	}
	return o
}

// An Engine decides for every key it is asked about. It is safe for concurrent
// use, but for Sweep; calls for keys with different roots rarely share a lock.
type Engine struct {
	catalog        *Catalog
	seed           maphash.Seed // of the record indexes; no answer depends on it
	maxPerRoot     int
	keys, ids      *quota
	sweepPartition int // the partition that Sweep is in
	shards         [Partitions]shard
}

// cell is a partition with its lock: two cache lines that no other shares.
type shard struct {
	sync.Mutex
	partition
}

// New returns an empty engine.
func New(o Options) *Engine {
	o = o.withDefaults()
	e := &Engine{catalog: o.Catalog, seed: maphash.MakeSeed(), maxPerRoot: o.MaxKeysPerRoot, keys: newQuota(o.MaxKeys), ids: newQuota(o.MaxIDs)}
	for i := range e.shards {
		e.shards[i].partition = newPartition(e)
	}
	return e
}

// Catalog returns the catalog against which policies must be compiled.
func (e *Engine) Catalog() *Catalog { return e.catalog }

// PartitionOf returns the partition of a key: the xxhash64 of its root, modulo
// [Partitions].
func PartitionOf(key string) int { return int(hashRoot(rootOf(key)) % Partitions) }

// lock returns the locked cell of a key, and the hash of its root.
func (e *Engine) lock(key string) (*shard, uint64) {
	root := hashRoot(rootOf(key))
	s := &e.shards[root%Partitions]
	s.Lock()
	return s, root
}

// Check charges r at once and for good, or denies it and charges nothing.
// Concurrency limits are reported and left alone. The same r.ID returns the
// same answer for 30 s, for 10 minutes if it is forced. The error is a
// [*FieldError] or an [ErrConflict].
func (e *Engine) Check(now Time, r *Request, d *Decision) error {
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.decide(now, root, r, d, false)
}

// Reserve holds the estimate of r, and a slot of every concurrency limit, until
// it is settled or cancelled or its lease runs out. The same r.ID returns the
// same answer until 10 minutes after the reservation's end. The error is a
// [*FieldError] or an [ErrConflict].
func (e *Engine) Reserve(now Time, r *Request, d *Decision) error {
	if r.ID == "" {
		return &FieldError{Field: "request_id", Value: `""`, Problem: "a reservation needs one"}
	}
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.decide(now, root, r, d, true)
}

// Settle makes the reservation u.ID of u.Key charge what was really used, as if
// that had been charged when it was reserved. Usage is cumulative, so repeated
// and reordered copies are harmless; progress extends the lease and never lowers
// a charge; the final value replaces it. A reservation whose lease ran out is
// corrected. The error is [ErrUnknownReservation], an [ErrConflict] or a
// [*FieldError].
func (e *Engine) Settle(now Time, u *Usage, d *Decision) error {
	s, root := e.lock(u.Key)
	defer s.Unlock()
	return s.settle(now, root, u, d)
}

// Cancel gives back all that the reservation id of key holds: the call never
// ran. The error is [ErrUnknownReservation] or an [ErrConflict].
func (e *Engine) Cancel(now Time, key, id string, d *Decision) error {
	s, root := e.lock(key)
	defer s.Unlock()
	return s.cancel(now, root, key, id, d)
}

// Withdraw takes back one sending of a reserve, whose answer nobody heard: what
// the reservation id of key holds is given back, and the id is as good as new,
// unless it was settled or some other sending of it got an answer that was not
// withdrawn. A sending that comes after that, within 30 s, is an [ErrWithdrawn],
// unless more than three quarters of [Options].MaxIDs are in use.
// What came of the reservation is no answer to the one who asks, so nothing is
// returned.
func (e *Engine) Withdraw(now Time, key, id string, attempt uint64) {
	s, root := e.lock(key)
	defer s.Unlock()
	s.withdraw(now, root, key, id, attempt)
}

// Peek reports the state of the limits of r and creates nothing; the costs and
// the id of r are ignored.
func (e *Engine) Peek(now Time, r *Request, d *Decision) {
	s, _ := e.lock(r.Key)
	defer s.Unlock()
	s.peek(now, r, d)
}
