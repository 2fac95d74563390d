// SPDX-License-Identifier: Apache-2.0

package limiter

// SnapshotRun is a snapshot between whose steps a test makes calls.
type SnapshotRun struct {
	s    *snapshot
	done bool
}

// BeginSnapshot begins a snapshot.
func (e *Engine) BeginSnapshot(now Time, partition int) *SnapshotRun {
	return &SnapshotRun{s: e.beginSnapshot(now, partition, nil)}
}

// Step writes one item, and reports whether there are more.
func (r *SnapshotRun) Step() bool {
	r.done = r.done || !r.s.step(1, 1<<maxDepth<<tableBits)
	return !r.done
}

// Finish writes all other items and returns the snapshot.
func (r *SnapshotRun) Finish() []byte {
	for r.Step() {
	}
	return r.s.out
}
