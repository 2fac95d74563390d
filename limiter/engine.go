// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"time"
)

// Partitions is the number of hash slots of the key space. It is part of the
// wire format: all members of a cluster agree on it.
const Partitions = 4096

// Options configure an [Engine]. The zero value works, with a catalog of its own.
type Options struct {
	// Catalog numbers the limits of the policies that will drive the engine.
	Catalog *Catalog
	// MaxKeys bounds the records of the engine, MaxKeysPerRoot those of one
	// root. Defaults: 10,000,000 and 1,000,000.
	MaxKeys, MaxKeysPerRoot int
	// MaxIDs bounds the remembered request ids, reservations included.
	// Default: 1,048,576.
	MaxIDs int
}

// An Engine decides for every key it is asked about. It is safe for concurrent
// use; calls for keys with different roots rarely share a lock.
type Engine struct{}

// New returns an empty engine.
func New(o Options) *Engine { return &Engine{} }

// PartitionOf returns the partition of a key: the xxhash64 of its root, modulo
// [Partitions].
func PartitionOf(key string) int { return 0 }

// Check charges r at once and for good, or denies it and charges nothing.
// Concurrency limits are reported and left alone. The same r.ID returns the
// same answer for 30 s.
func (e *Engine) Check(now Time, r *Request, d *Decision) error { return nil }

// Reserve holds the estimate of r and a slot of every concurrency limit.
func (e *Engine) Reserve(now Time, r *Request, d *Decision) error { return nil }

// Settle applies cumulative usage to the reservation u.ID of u.Key.
func (e *Engine) Settle(now Time, u *Usage, d *Decision) error { return nil }

// Cancel gives back all that the reservation id of key holds.
func (e *Engine) Cancel(now Time, key, id string, d *Decision) error { return nil }

// Peek reports the state of the limits of r and changes nothing; its costs and
// id are ignored.
func (e *Engine) Peek(now Time, r *Request, d *Decision) error { return nil }

// CheckBatch is Check for every request, grouped by partition. The slices have
// the same length.
func (e *Engine) CheckBatch(now Time, rs []*Request, ds []*Decision, errs []error) {}

// Sweep visits up to n records and ends the leases that ran out among them. It holds each lock for a
// few microseconds, and remembers where it stopped. One goroutine at a time.
func (e *Engine) Sweep(now Time, n int) (removed int) { return 0 }

// Stats is a sum over all partitions.
type Stats struct {
	Keys         int
	Reservations int      // live
	IDs          int      // remembered, live reservations included
	Expired      int64    // leases that ran out
	Forgotten    int64    // ids dropped before their time, for want of room
	Evicted      [3]int64 // by EvictionReason
	TableFull    int64
	// Overrun is what settles used beyond a reservation and beyond the debt
	// that a bucket may carry: it was served and not charged. By dimension code.
	Overrun map[Dimension]int64
}

// Stats reads counters without stopping anything; the sum is not one instant.
func (e *Engine) Stats() Stats { return Stats{} }

// Snapshot appends the state of a partition to buf: ages, not timestamps.
func (e *Engine) Snapshot(now Time, partition int, buf []byte) []byte { return buf }

// Restore replaces the state of a partition with a snapshot's. The error says
// what is wrong with data, and then nothing has changed.
func (e *Engine) Restore(now Time, partition int, data []byte, zone func(string) (*time.Location, error)) error {
	return nil
}
