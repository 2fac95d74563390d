// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/bucketring/bucketring/internal/keypath"
)

// Partitions is the number of partitions of the key space. All members of a
// cluster must use the same number.
const Partitions = keypath.Partitions

// Options configure an [Engine]. The zero value works.
type Options struct {
	// Catalog holds the limit definitions that the engine's records refer to.
	// Default: a new catalog, which [Engine.Catalog] returns.
	Catalog *Catalog
	// MaxKeys is the most records that the engine holds in open partitions, and again in
	// closed ones. Default: 10,000,000.
	MaxKeys int
	// MaxKeysPerRoot is the most under one root. Default: a quarter of MaxKeys, at
	// least 1,000. A root may also hold at most three times as many as are free.
	MaxKeysPerRoot int
	// MaxIDs is the most request ids that the engine remembers in open partitions, and
	// again in closed ones, including those of reservations. One root gets at most three quarters of them, and less the more
	// others have. A root with its share forgets its own oldest id for a new one.
	// Default: 1,048,576.
	MaxIDs int
	// HotKeys counts calls by their key, for [Engine.HotKeys].
	HotKeys bool
	// Ledger learns what calls are charged in the end. With one, the engine lends no slices
	// of limits, because what is charged from slices is not known by call, and it keeps the
	// key, id and model of every live reservation.
	Ledger Ledger
	// CountUsage counts what calls are charged, for [Engine.Usage].
	CountUsage bool
}

func (o Options) withDefaults() Options {
	if o.Catalog == nil {
		o.Catalog = NewCatalog()
	}
	if o.MaxKeys <= 0 {
		o.MaxKeys = 10_000_000
	}
	if o.MaxKeysPerRoot <= 0 {
		o.MaxKeysPerRoot = max(o.MaxKeys/defaultRootShare, minRootShare)
	}
	if o.MaxIDs <= 0 {
		o.MaxIDs = 1 << 20
	}
	return o
}

// An Engine decides checks and reservations and keeps the state of every key in
// memory. Its methods are safe for concurrent use, except that Sweep must not run
// twice at once. Calls for keys with different roots rarely share a lock.
type Engine struct {
	catalog        *Catalog
	seed           maphash.Seed // of the record tables; no decision depends on it
	maxPerRoot     int
	sampler        *sampler // nil: hot keys are not counted
	ledger         Ledger   // nil: none
	usages         *usages  // nil: usage is not counted
	keys           *quota
	ids            *idPool
	copiedKeys     *quota // of closed partitions
	copiedIDs      *quota
	idSeed         uint64                    // of the index of ids; no decision depends on it
	reserve        int64                     // see keepReserve
	largest        [Partitions]atomic.Uint32 // rootSizes.count of each partition
	sweepPartition int                       // where Sweep continues
	snapshots      sync.Mutex                // of Snapshot, locked before a shard
	spareChunks    [2][]byte                 // of the last snapshot, for the next; locked by snapshots
	reads          [Partitions]sync.Mutex    // of AppendChanges in steps, locked before the shard
	shards         [Partitions]shard
}

// shard is a partition with its lock. It fills two cache lines, so that shards do
// not share any.
type shard struct {
	sync.Mutex
	partition
}

// New returns an empty engine.
func New(o Options) *Engine {
	o = o.withDefaults()
	e := &Engine{
		catalog: o.Catalog, seed: maphash.MakeSeed(), maxPerRoot: o.MaxKeysPerRoot,
		keys: newQuota(o.MaxKeys), copiedKeys: newQuota(o.MaxKeys), copiedIDs: newQuota(o.MaxIDs), ids: &idPool{quota: *newQuota(o.MaxIDs), reserve: int64(o.MaxIDs / idReserve)}, reserve: int64(o.MaxKeys / reserve),
	}
	e.idSeed = maphash.String(e.seed, "ids")
	e.ledger = o.Ledger
	if o.CountUsage {
		e.usages = &usages{}
	}
	if o.HotKeys {
		e.sampler = newSampler(e.seed)
	}
	for i := range e.shards {
		e.shards[i].partition = newPartition(e)
		e.shards[i].roots.shared = &e.largest[i]
	}
	return e
}

// Catalog returns the catalog against which the engine's policies must be compiled.
func (e *Engine) Catalog() *Catalog { return e.catalog }

// PartitionOf returns the partition of a key: the xxHash64 of its root, modulo
// [Partitions].
func PartitionOf(key string) int { return keypath.Partition(key, Partitions) }

// lock locks the shard of a key and returns it with the hash of the key's root.
func (e *Engine) lock(key string) (*shard, uint64) {
	root := keypath.RootHash(key)
	s := &e.shards[root%Partitions]
	s.Lock()
	return s, root
}

// Check charges r at once and for good, or denies it and charges nothing.
// Concurrency limits are reported but not charged. Repeating r.ID returns the same
// decision for 30 s, or for 10 minutes if r.Force is set, with the limits as they are
// then. The error is a
// [*FieldError], [ErrWithdrawn], [ErrClosed], or matches [ErrConflict].
func (e *Engine) Check(now Time, r *Request, d *Decision) error {
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.decide(now, root, r, d, false)
}

// Reserve charges the estimate of r and takes a slot of every concurrency limit,
// until the reservation is settled or cancelled or its lease expires. Repeating
// r.ID returns the same decision until 10 minutes after the reservation's end, with the
// limits as they are then. The
// error is a [*FieldError], [ErrWithdrawn], [ErrClosed], or matches [ErrConflict].
func (e *Engine) Reserve(now Time, r *Request, d *Decision) error {
	if r.ID == "" {
		return &FieldError{Field: "request_id", Value: `""`, Problem: "must not be empty for a reservation"}
	}
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.decide(now, root, r, d, true)
}

// Settle changes the charge of reservation u.ID of u.Key to the real usage, as if
// that had been charged at reserve time. Usage is cumulative, so repeated and
// reordered copies are harmless. A report of progress extends the lease and never
// lowers the charge; a final report replaces it and ends the reservation. An
// expired reservation can still be settled. The error is [ErrUnknownReservation],
// [ErrClosed], a [*FieldError], or matches [ErrConflict].
func (e *Engine) Settle(now Time, u *Usage, d *Decision) error {
	s, root := e.lock(u.Key)
	defer s.Unlock()
	return s.settle(now, root, u, d)
}

// Cancel refunds the whole charge of reservation id of key, for a call that never
// ran. The id is remembered for another 30 s. The error is
// [ErrUnknownReservation], [ErrClosed], or matches [ErrConflict].
func (e *Engine) Cancel(now Time, key, id string, d *Decision) error {
	s, root := e.lock(key)
	defer s.Unlock()
	return s.cancel(now, root, key, id, d)
}

// Withdraw cancels one attempt of a reserve whose answer did not reach its caller.
// It refunds the reservation id of key and frees the id for reuse, unless the
// reservation was settled or another attempt, not withdrawn, got its answer.
// If the attempt arrives within the next 30 s, Reserve rejects it with
// [ErrWithdrawn]. Withdrawals are not remembered while the root has its share of
// [Options].MaxIDs. It returns the number of the last change, as [Decision].Change; a
// withdrawal is always large. The error is [ErrClosed].
func (e *Engine) Withdraw(now Time, key, id string, attempt uint64) (change uint64, err error) {
	s, root := e.lock(key)
	defer s.Unlock()
	return s.withdraw(now, root, key, id, attempt)
}

// WithdrawCheck withdraws r.Attempt of the check r, whose answer did not reach its
// caller. It refunds the check and frees its id for reuse, unless another attempt, not
// withdrawn, got its answer or the policy has changed. A token bucket keeps what it has
// refilled since the check, and a shadow limit the whole charge. If the attempt arrives
// within the next 30 s, Check rejects it with [ErrWithdrawn], as Withdraw does. d is
// memory for the engine and gets no decision, except Change and Large. The error is
// [ErrClosed].
func (e *Engine) WithdrawCheck(now Time, r *Request, d *Decision) error {
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.withdrawCheck(now, root, r, d)
}

// Peek reports the state of the limits of r, for its class, without changing it. The costs
// and the id of r are ignored.
func (e *Engine) Peek(now Time, r *Request, d *Decision) {
	s, _ := e.lock(r.Key)
	defer s.Unlock()
	s.peek(now, r, d)
}

// Preview decides r as Check or, if reserve is set, as Reserve would, but charges nothing,
// creates nothing and remembers nothing: also a known id is decided anew. In d are the outcome,
// the reason and the limits with the cost of r, before it is charged. The errors are those of
// Reserve.
func (e *Engine) Preview(now Time, r *Request, reserve bool, d *Decision) error {
	s, _ := e.lock(r.Key)
	defer s.Unlock()
	return s.preview(now, r, reserve, d)
}
