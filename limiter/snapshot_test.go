// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/limiter"
)

// The properties in property_test.go restart at random and show that a restart changes
// no later decision. The tests in this file check the rest.

// busy fills a partition with all kinds of state, under one root.
func busy(n *node) *limiter.Plan {
	limits := append(tokenLimits(), limiter.Limit{Name: "preview", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 50, Calendar: limiter.Week, Zone: zone("Europe/Berlin"), Shadow: true},
		limiter.Limit{Name: "images", Dimension: "images", Algorithm: limiter.SlidingWindow, Amount: 50, Window: time.Minute, Closed: true},
		limiter.Limit{Name: "videos", Dimension: "videos", Algorithm: limiter.TokenBucket, Amount: 50, Window: time.Minute, FullCapacity: 150, Degrade: true, Unreachable: limiter.Open})
	set := mustSet(n.t, n.catalog, limits...)
	p := plan("acme/alice", set, set)
	p.Levels[1].Model = mustSet(n.t, n.catalog, bucketOf(77, 0))
	long := "acme/" + strings.Repeat("long", 20)
	for i, key := range []string{"acme/alice", "acme/alice", "acme/alice", long} {
		r := &limiter.Request{Key: key, Model: "m", Plan: plan(key, set, set), Requests: 1, InputTokens: 10, OutputTokens: 5, ID: fmt.Sprint("r", i)}
		if key == p.Tier || i < 3 {
			r.Plan = p
		}
		n.reserve(noon, r)
		n.check(noon, &limiter.Request{Key: key, Model: "m", Plan: r.Plan, Requests: 1, InputTokens: 7, ID: fmt.Sprint("c", i)})
		switch i {
		case 0:
			n.settle(noon.Add(time.Second), limiter.Usage{Key: key, ID: r.ID, InputTokens: 8, OutputTokens: 2, Final: true})
		case 1:
			n.settle(noon.Add(time.Second), limiter.Usage{Key: key, ID: r.ID, InputTokens: 20, OutputTokens: 3})
		}
	}
	n.count(noon, limiter.CountRequest{Key: "acme", Window: limiter.Window{Unit: limiter.UnitYear, Multiple: 2}, Limit: 5, Hits: 7, ID: "hits"})
	n.count(noon, limiter.CountRequest{Key: "acme/alice", Window: limiter.Window{Unit: limiter.UnitDay}, Limit: 5, Hits: 3})
	return p
}

func restored(t testing.TB, now limiter.Time, data []byte) (*node, error) {
	n := newNode(t, limiter.Options{})
	return n, n.Restore(now, limiter.PartitionOf("acme"), data, time.LoadLocation)
}

func TestSnapshotHoldsEverything(t *testing.T) {
	n := newNode(t, limiter.Options{})
	busy(n)
	now := noon.Add(2 * time.Second)
	part := limiter.PartitionOf("acme")
	data := n.Snapshot(now, part, nil)
	again, err := restored(t, now, data)
	if err != nil {
		t.Fatalf("Restore = %v, want no error", err)
	}
	if got := again.Snapshot(now, part, nil); len(got) != len(data) { // the order of records may differ
		t.Errorf("the snapshot of a restored partition has %d bytes, want %d", len(got), len(data))
	}
	was, is := n.Stats(), again.Stats()
	if is.Keys != was.Keys || is.Reservations != was.Reservations || is.IDs != was.IDs {
		t.Errorf("restored %d keys, %d reservations, %d ids, want %d, %d, %d", is.Keys, is.Reservations, is.IDs, was.Keys, was.Reservations, was.IDs)
	}
	if got := n.Snapshot(now, part, []byte("before")); string(got[:6]) != "before" || !bytes.Equal(got[6:], data) {
		t.Error("Snapshot does not append to its buffer")
	}
}

// TestAgesShiftWithTime checks that state which was 2 s old in a snapshot is 12 s old
// after 10 s of downtime, whatever the clocks read.
func TestAgesShiftWithTime(t *testing.T) {
	limits := []limiter.Limit{
		bucketOf(600, 1000),
		{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 2},
		{Name: "minute", Dimension: limiter.Tokens, Algorithm: limiter.SlidingWindow, Amount: 1000, Window: time.Minute},
	}
	n := newNode(t, limiter.Options{})
	p := n.plan("acme", limits...)
	n.reserve(noon, &limiter.Request{Key: "acme", ID: "r", Plan: p, OutputTokens: 300})
	data := n.Snapshot(noon.Add(2*time.Second), limiter.PartitionOf("acme"), nil)

	other := newNode(t, limiter.Options{})
	up := limiter.Time{Mono: 5e9, Wall: noon.Wall + int64(12*time.Second)} // another machine, booted 5 s ago
	if err := other.Restore(up.Add(-10*time.Second), limiter.PartitionOf("acme"), data, time.LoadLocation); err != nil {
		t.Fatalf("Restore = %v, want no error", err)
	}
	look := &limiter.Request{Key: "acme", Plan: other.plan("acme", limits...)}
	wantUsed(t, "12 s after the charge", other.peek(up, look), 0, 300-120)
	wantUsed(t, "a lease of 30 s after 12 s", other.peek(up.Add(18*time.Second-1), look), 1, 1)
	wantUsed(t, "a lease of 30 s after 30 s", other.peek(up.Add(18*time.Second), look), 1, 0)
	d := other.settle(up.Add(19*time.Second), limiter.Usage{Key: "acme", ID: "r", OutputTokens: 40, Final: true})
	wantUsed(t, "a late settle", d, 0, 0)
	wantUsed(t, "a sliding window", d, 2, 40)
	wantUsed(t, "less than a window after the charge", other.peek(up.Add(47*time.Second), look), 2, 40)
	wantUsed(t, "a window and two 64ths after the charge", other.peek(up.Add(50*time.Second), look), 2, 0)
}

// TestSweepDuringSnapshot checks that what the sweep removes while a snapshot is written is
// in the snapshot as it was when that began.
func TestSweepDuringSnapshot(t *testing.T) {
	n := newNode(t, limiter.Options{})
	minute := limiter.Limit{Name: "minute", Dimension: limiter.Tokens, Algorithm: limiter.SlidingWindow, Amount: 1000, Window: time.Minute}
	r := &limiter.Request{Key: "acme", Plan: n.plan("acme", minute), InputTokens: 300}
	n.check(noon, r)
	then := noon.Add(time.Second)
	run := n.BeginSnapshot(then, limiter.PartitionOf("acme"))
	if removed := n.Sweep(noon.Add(2*time.Minute), 2*limiter.Partitions); removed != 1 {
		t.Fatalf("the sweep removed %d records, want 1", removed)
	}
	again, err := restored(t, then, run.Finish())
	if err != nil {
		t.Fatal(err)
	}
	r.Plan = again.plan("acme", minute)
	wantUsed(t, "the record that was swept", again.peek(then, r), 0, 300)
}

// TestIDsDieDuringSnapshot checks that an expired reservation that is forgotten while a
// snapshot is written can be settled after a restore.
func TestIDsDieDuringSnapshot(t *testing.T) {
	n := newNode(t, limiter.Options{})
	bucket := bucketOf(6000, 100_000)
	r := &limiter.Request{Key: "acme", ID: "r", Plan: n.plan("acme", bucket), InputTokens: 50_000}
	n.reserve(noon, r)
	then := noon.Add(31 * time.Second)
	n.Sweep(then, 2*limiter.Partitions)
	run := n.BeginSnapshot(then, limiter.PartitionOf("acme"))
	n.Sweep(then.Add(11*time.Minute), 2*limiter.Partitions)
	if s := n.Stats(); s.Expired != 1 || s.IDs != 0 {
		t.Fatalf("%d expired, %d ids, want 1 and none", s.Expired, s.IDs)
	}
	again, err := restored(t, then, run.Finish())
	if err != nil {
		t.Fatalf("Restore = %v, want no error", err)
	}
	d := again.settle(then, limiter.Usage{Key: "acme", ID: "r", InputTokens: 60_000, Final: true})
	wantUsed(t, "the settled reservation", d, 0, 60_000-3100)
}

// TestReplacedDuringSnapshot checks that a snapshot has what it began with if the partition
// is replaced meanwhile.
func TestReplacedDuringSnapshot(t *testing.T) {
	part := limiter.PartitionOf("acme")
	empty := newNode(t, limiter.Options{}).Snapshot(noon, part, nil)
	for name, replace := range map[string]func(n *node) error{
		"restored": func(n *node) error { return n.Restore(noon, part, empty, time.LoadLocation) },
		"copied":   func(n *node) error { n.Close(part); return n.ApplyFull(noon, part, empty, time.LoadLocation) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			r := &limiter.Request{Key: "acme", Plan: n.plan("acme", bucketOf(6000, 100_000)), InputTokens: 300}
			n.check(noon, r)
			run := n.BeginSnapshot(noon, part)
			if err := replace(n); err != nil {
				t.Fatal(err)
			}
			if s := n.Stats(); s.Keys+s.CopiedKeys != 0 {
				t.Errorf("%d keys after the partition was replaced by an empty one, want none", s.Keys+s.CopiedKeys)
			}
			again, err := restored(t, noon, run.Finish())
			if err != nil {
				t.Fatal(err)
			}
			r.Plan = again.plan("acme", bucketOf(6000, 100_000))
			wantUsed(t, "the snapshot", again.peek(noon, r), 0, 300)
		})
	}
}

// TestFullCopyIsAppliedOnce checks when a copy that was read may be applied.
func TestFullCopyIsAppliedOnce(t *testing.T) {
	part := limiter.PartitionOf("acme")
	owner, heir := newNode(t, limiter.Options{}), newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme", Plan: owner.plan("acme", bucketOf(6000, 100_000)), InputTokens: 300}
	owner.check(noon, r)
	data, seq := owner.SnapshotAt(noon, part, nil)
	c, err := heir.ReadFull(noon, part, data, time.LoadLocation)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(noon); !errors.Is(err, limiter.ErrOpen) {
		t.Errorf("Apply() to an open partition = %v, want %v", err, limiter.ErrOpen)
	}
	heir.Close(part)
	if err := c.Apply(noon); err != nil || heir.Seq(part) != seq || heir.Stats().CopiedKeys != 1 {
		t.Errorf("Apply() = %v, with change %d and %d keys; want change %d and 1 key", err, heir.Seq(part), heir.Stats().CopiedKeys, seq)
	}
	if err := c.Apply(noon); err == nil {
		t.Error("Apply() again succeeds, want an error")
	}
}

func TestRestoreReplacesThePartition(t *testing.T) {
	n := newNode(t, limiter.Options{})
	empty := n.Snapshot(noon, limiter.PartitionOf("acme"), nil)
	p := busy(n)
	if err := n.Restore(noon.Add(time.Second), limiter.PartitionOf("acme"), empty, time.LoadLocation); err != nil {
		t.Fatalf("Restore of an empty partition = %v, want no error", err)
	}
	for i, s := range n.peek(noon.Add(time.Second), &limiter.Request{Key: "acme/alice", Model: "m", Plan: p}).Limits {
		if used(s) != 0 {
			t.Errorf("limit %d: used = %d after an empty restore, want 0", i, used(s))
		}
	}
	if s := n.Stats(); s.Keys != 0 || s.IDs != 0 || s.Reservations != 0 {
		t.Errorf("Stats after an empty restore = %+v, want nothing left", s)
	}
}

// TestDamagedSnapshotChangesNothing cuts a snapshot at every byte and flips bits of
// every byte.
func TestDamagedSnapshotChangesNothing(t *testing.T) {
	n := newNode(t, limiter.Options{})
	busy(n)
	now := noon.Add(2 * time.Second)
	part := limiter.PartitionOf("acme")
	data := n.Snapshot(now, part, nil)
	rejected := func(what string, damaged []byte) {
		t.Helper()
		if err := n.Restore(now, part, damaged, time.LoadLocation); err == nil {
			t.Fatalf("Restore of %s = nil, want an error", what)
		}
	}
	for i := range data {
		rejected(fmt.Sprintf("the first %d bytes", i), data[:i])
		flipped := bytes.Clone(data)
		flipped[i] ^= 0x40
		rejected(fmt.Sprintf("a flipped byte %d", i), flipped)
	}
	rejected("more than all", append(bytes.Clone(data), 0))
	if got := n.Snapshot(now, part, nil); !bytes.Equal(got, data) {
		t.Error("a failed Restore changed the partition")
	}
	if err := n.Restore(now, part+1, data, time.LoadLocation); err == nil {
		t.Error("Restore into another partition = nil, want an error")
	}
	noZones := func(string) (*time.Location, error) { return nil, fmt.Errorf("no zones") }
	if err := n.Restore(now, part, data, noZones); err == nil || !strings.Contains(err.Error(), "Europe/Berlin") {
		t.Errorf("Restore without zones = %v, want an error that names Europe/Berlin", err)
	}
}

// FuzzRestore changes snapshots and corrects their checksum. Restore must not panic or
// use much memory, and must change nothing if it returns an error. State that it
// accepts must work.
func FuzzRestore(f *testing.F) {
	now, part := noon.Add(2*time.Second), limiter.PartitionOf("acme")
	seed := newNode(f, limiter.Options{})
	f.Add(seed.Snapshot(now, part, nil))
	busy(seed)
	f.Add(seed.Snapshot(now, part, nil))
	before := newNode(f, limiter.Options{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 8 {
			data = bytes.Clone(data)
			binary.LittleEndian.PutUint64(data[len(data)-8:], xxhash.Sum64(data[:len(data)-8]))
		}
		n := &node{Engine: before.Engine, t: t, catalog: before.catalog}
		was := n.Snapshot(now, part, nil)
		if err := n.Restore(now, part, data, time.LoadLocation); err != nil {
			if got := n.Snapshot(now, part, nil); !bytes.Equal(got, was) {
				t.Fatalf("Restore = %v, and changed the partition", err)
			}
			return
		}
		useRestored(t, n, now)
		if err := n.Restore(now, part, seed.Snapshot(now, limiter.PartitionOf("acme"), nil), time.LoadLocation); err != nil {
			t.Fatalf("Restore = %v, want no error", err)
		}
	})
}

// useRestored makes calls to state that a fuzzed input made.
func useRestored(t *testing.T, n *node, now limiter.Time) {
	t.Helper()
	part, p := limiter.PartitionOf("acme"), n.plan("acme/alice", tokenLimits()...)
	var d limiter.Decision
	var c limiter.CountResult
	for i, later := range []time.Duration{0, time.Second, time.Hour} {
		at := now.Add(later)
		r := &limiter.Request{Key: "acme/alice", Model: "m", Plan: p, Requests: 1, InputTokens: 9, ID: fmt.Sprint("f", i)}
		n.Peek(at, r, &d)
		_ = n.Reserve(at, r, &d)
		for _, id := range []string{"r0", "r1", "r2", "r3", r.ID} {
			_ = n.Settle(at, &limiter.Usage{Key: r.Key, ID: id, InputTokens: 30, OutputTokens: 2, Final: i > 0}, &d)
			_ = n.Cancel(at, r.Key, id, &d)
		}
		for _, id := range []string{"", "hits", r.ID, "more hits"} {
			q := &limiter.CountRequest{Key: "acme", Window: limiter.Window{Unit: limiter.UnitYear, Multiple: 2}, Hits: 7, ID: id, GiveBack: i == 1}
			if _ = n.Count(at, q, &c); c.Used < 0 {
				t.Fatalf("Count(%+v) = %+v, want at least 0 used", q, c)
			}
		}
		n.Sweep(at, 10)
		again := n.Snapshot(at, part, nil)
		if err := n.Restore(at, part, again, time.LoadLocation); err != nil {
			t.Fatalf("Restore of the snapshot of a restored partition = %v", err)
		}
	}
}
