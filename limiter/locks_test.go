// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"strconv"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

// tokens returns a set with one token bucket.
func tokens(t testing.TB, e *Engine) *LimitSet {
	t.Helper()
	set, err := e.catalog.LimitSet([]Limit{{Name: "t", Dimension: Tokens, Algorithm: TokenBucket, Amount: 1000, Window: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// requestOf returns a request of a token for a key of one or two segments.
func requestOf(key string, set *LimitSet) *Request {
	r := &Request{Key: key, InputTokens: 1, Plan: &Plan{Count: 1, Rates: Rates{Weights: DefaultWeights}}}
	r.Plan.Levels[0] = Level{End: len(key), Limits: set}
	return r
}

// TestBatchWaitsWithoutLocks checks that a batch decides what it can while the partition of
// another of its requests is locked, and holds no lock while it waits for that one.
func TestBatchWaitsWithoutLocks(t *testing.T) {
	low, high := "a", "b"
	if PartitionOf(low) > PartitionOf(high) {
		low, high = high, low
	}
	for _, keys := range [][]string{{low, high}, {high, low}} {
		e := New(Options{})
		set := tokens(t, e)
		rs, ds, errs := []*Request{requestOf(keys[0], set), requestOf(keys[1], set)}, []*Decision{{}, {}}, make([]error, 2)
		busy, free := &e.shards[PartitionOf(keys[0])], &e.shards[PartitionOf(keys[1])]
		busy.Lock()
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.CheckBatch(Time{Mono: 1, Wall: 1}, rs, ds, errs)
		}()
		waittest.Until(t, "the request of the other partition is decided", func() bool {
			if !free.TryLock() {
				return false
			}
			defer free.Unlock()
			return free.records.n == 1
		})
		busy.Unlock()
		<-done
		for i := range ds {
			if ds[i].Outcome != Allowed || errs[i] != nil {
				t.Errorf("request %d = %s, %v, want allowed", i, ds[i].Outcome, errs[i])
			}
		}
	}
}

// TestBatchReleasesALargeRoot checks that a batch of many requests for one root does not
// hold its partition for all of them.
func TestBatchReleasesALargeRoot(t *testing.T) {
	waittest.Until(t, "the lock is free between the groups of a batch", func() bool {
		e := New(Options{})
		set := tokens(t, e)
		rs, ds, errs := make([]*Request, maxBatch), make([]*Decision, maxBatch), make([]error, maxBatch)
		for i := range rs {
			rs[i], ds[i] = requestOf("acme/"+strconv.Itoa(i), set), &Decision{}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.CheckBatch(Time{Mono: 1, Wall: 1}, rs, ds, errs)
		}()
		seen := false
		for s := &e.shards[PartitionOf("acme")]; ; {
			s.Lock()
			n := s.records.n
			s.Unlock()
			if n == maxBatch {
				<-done
				return seen
			}
			if seen = seen || n > 0; n%groupSize != 0 {
				t.Fatalf("the lock is free after %d requests, want a multiple of %d", n, groupSize)
			}
		}
	})
}

// TestSnapshotReleasesTheLock checks that the lock of a large partition is free while its
// snapshot is written, and how much is written at a time.
func TestSnapshotReleasesTheLock(t *testing.T) {
	const records = 20_000
	e := New(Options{})
	set := tokens(t, e)
	now, d := Time{Mono: 1, Wall: 1}, Decision{}
	r := requestOf("acme/0", set)
	for i := range records {
		r.Key = "acme/" + strconv.Itoa(i)
		r.Plan.Levels[0].End = len(r.Key)
		if err := e.Check(now, r, &d); err != nil {
			t.Fatal(err)
		}
	}
	part := PartitionOf("acme")
	s := e.beginSnapshot(now, part, nil)
	steps := 1
	for ; s.step(snapshotStep, snapshotLook); steps++ {
		before := len(s.out)
		if !s.shard.TryLock() {
			t.Fatal("the partition is locked between two steps")
		}
		s.shard.Unlock()
		if err := e.Check(now, r, &d); err != nil { // the last key, so it is written early
			t.Fatal(err)
		}
		if got := len(s.out) - before; got > snapshotStep+snapshotStep/8 {
			t.Fatalf("a step wrote %d bytes, want about %d", got, snapshotStep)
		}
	}
	if least := len(s.out) / (snapshotStep + snapshotStep/8); steps < least {
		t.Errorf("a snapshot of %d bytes had %d steps, want at least %d", len(s.out), steps, least)
	}

	// Snapshot itself: the lock is seen free while it is under way.
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Snapshot(now, part, nil)
	}()
	waittest.Until(t, "the lock is free during a snapshot", func() bool {
		select {
		case <-done: // missed it: once more
			done = make(chan struct{})
			go func() {
				defer close(done)
				e.Snapshot(now, part, nil)
			}()
		default:
		}
		e.shards[part].Lock()
		defer e.shards[part].Unlock()
		return e.shards[part].snapshot != nil && e.shards[part].snapshot.recordCursor != 0
	})
	<-done
}

// TestSweepFreesMemory checks that tables and slabs of a partition shrink after a flood,
// and that no hold of the lock visits more than its share of a large partition.
func TestSweepFreesMemory(t *testing.T) {
	const records = 100_000
	e := New(Options{})
	set := tokens(t, e)
	now, d := Time{Mono: 1, Wall: 1}, Decision{}
	r := requestOf("acme/0", set)
	for i := range records {
		r.Key = "acme/a-name-beyond-what-a-record-holds-" + strconv.Itoa(i)
		r.Plan.Levels[0].End = len(r.Key)
		if err := e.Check(now, r, &d); err != nil {
			t.Fatal(err)
		}
	}
	p := &e.shards[PartitionOf("acme")].partition
	places := func() (n int) {
		for i := range p.records.tableCount() {
			n += len(p.records.tableAt(i).records)
		}
		return n
	}
	if places() < records {
		t.Fatalf("%d places for %d records", places(), records)
	}
	now = now.Add(time.Hour)
	r.Key = "acme/still-used"
	r.Plan.Levels[0].End = len(r.Key)
	for holds, done := 0, false; !done; holds++ {
		if err := e.Check(now, r, &d); err != nil {
			t.Fatal(err)
		}
		before := p.records.n
		var visited int
		if visited, _, done = p.sweep(now, sweepStep); visited > sweepStep || before-p.records.n > sweepStep {
			t.Fatalf("a hold visited %d records and removed %d, want at most %d", visited, before-p.records.n, sweepStep)
		}
		if holds > 2*records/sweepStep {
			t.Fatalf("the sweep is not done after %d holds", holds)
		}
	}
	for range 3 {
		for done := false; !done; {
			_, _, done = p.sweep(now, sweepStep)
		}
	}
	used := boolIntOf(p.names.first != nil)
	for _, chunk := range p.names.more {
		used += boolIntOf(chunk.values != nil)
	}
	if p.records.n != 1 || places() > minPlaces || used > 2 {
		t.Errorf("%d records have %d places and %d chunks of names after a flood, want 1, at most %d and 2", p.records.n, places(), used, minPlaces)
	}
	for done := false; !done; {
		_, _, done = p.sweep(now.Add(time.Hour), sweepStep)
	}
	if p.records.n != 0 || p.records.tableCount() != 1 {
		t.Errorf("%d records in %d tables, want none in one", p.records.n, p.records.tableCount())
	}
}

func boolIntOf(b bool) int { return int(boolInt(b)) }

// TestGrowingMovesFewRecords counts the records that one insertion or one shrinking moves in
// a directory of a million.
func TestGrowingMovesFewRecords(t *testing.T) {
	var d directory
	x, moves := uint64(1), 0
	hashOf := func(rec *record) uint64 { return uint64(rec.advancedAt) }
	moved := func(*record, uint32) { moves++ }
	check := func(what string) {
		t.Helper()
		if moves > 1<<tableBits {
			t.Fatalf("%s moved %d records, want at most %d", what, moves, 1<<tableBits)
		}
		moves = 0
	}
	for range 1_000_000 {
		x = mix(x, 0x9e3779b97f4a7c15)
		if !d.ensureRoom(x, hashOf, moved) {
			t.Fatal("no room")
		}
		check("an insertion")
		_, rec := d.insert(x)
		rec.advancedAt = int64(x)
	}
	for id, found := uint32(0), false; ; {
		last := id
		if id, found = d.next(id); found {
			if id%16 != 0 {
				d.remove(id)
			}
			continue
		}
		d.shrink(last, hashOf, moved)
		if check("shrinking"); id == 0 {
			return
		}
	}
}
