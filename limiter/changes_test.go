// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/limiter"
)

var acme = limiter.PartitionOf("acme")

// tracked returns an open node that lists the changes of acme, and a node whose partition
// is closed.
func tracked(t testing.TB) (owner, heir *node) {
	owner, heir = newNode(t, limiter.Options{}), newNode(t, limiter.Options{})
	owner.Track(acme, true)
	heir.Close(acme)
	return owner, heir
}

// changes returns the message of what changed after a number.
func (n *node) changes(now limiter.Time, after uint64) []byte {
	n.t.Helper()
	var w limiter.StateWriter
	if _, ok := n.AppendChanges(now, acme, after, &w); !ok {
		n.t.Fatalf("AppendChanges(%d) = false, want changes", after)
	}
	return w.Message()
}

// apply applies all sections of a message.
func (n *node) apply(now limiter.Time, data []byte) error {
	if n.reader == nil {
		n.reader = n.NewReader(time.LoadLocation)
	}
	r := n.reader
	if err := r.Reset(data); err != nil {
		return err
	}
	for r.Next() {
		if err := n.Apply(now, r); err != nil {
			return err
		}
	}
	return r.Err()
}

func (n *node) mustApply(now limiter.Time, data []byte) {
	n.t.Helper()
	if err := n.apply(now, data); err != nil {
		n.t.Fatalf("Apply() = %v, want no error", err)
	}
}

// TestHotKeyIsOneRecord checks that the list of changes does not grow with the changes of
// one key.
func TestHotKeyIsOneRecord(t *testing.T) {
	owner, heir := tracked(t)
	limit := limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Calendar: limiter.Day, Amount: 1e9}
	r := &limiter.Request{Key: "acme", Plan: owner.plan("acme", limit), Requests: 1}
	owner.check(noon, r)
	one := len(owner.changes(noon, 0))
	for range 100_000 {
		owner.check(noon, r)
	}
	data := owner.changes(noon, 0)
	if len(data) > one+8 {
		t.Errorf("a message of 100,001 changes of a key has %d bytes, and one of a single change %d", len(data), one)
	}
	heir.mustApply(noon, data)
	wantUsed(t, "at the heir", heir.peek(noon, &limiter.Request{Key: "acme", Plan: heir.plan("acme", limit)}), 0, 100_001)
	if seq := heir.Seq(acme); seq != 100_001 {
		t.Errorf("Seq() of the copy = %d, want 100,001", seq)
	}
}

// TestClosedPartition checks what calls to a closed partition get, and that they change
// nothing.
func TestClosedPartition(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := busy(n)
	seq := n.Seq(acme)
	if got := n.Close(acme); got != seq {
		t.Errorf("Close() = %d, want %d", got, seq)
	}
	before := n.Snapshot(noon, acme, nil)
	r := &limiter.Request{Key: "acme/alice", Model: "m", Plan: p, Requests: 1, ID: "new"}
	d := limiter.Decision{Change: 9, Large: true}
	c := limiter.CountResult{Change: 9, Large: true}
	errs := make([]error, 1)
	n.CheckBatch(noon, []*limiter.Request{r}, []*limiter.Decision{{}}, errs)
	_, withdrawn := n.Withdraw(noon, r.Key, "r2", 1)
	for call, err := range map[string]error{
		"Check":         n.Check(noon, r, &d),
		"Reserve":       n.Reserve(noon, r, &d),
		"Settle":        n.Settle(noon, &limiter.Usage{Key: r.Key, ID: "r2", Final: true}, &d),
		"Cancel":        n.Cancel(noon, r.Key, "r2", &d),
		"Count":         n.Count(noon, &limiter.CountRequest{Key: "acme", Window: limiter.Window{Unit: limiter.UnitDay}, Hits: 1}, &c),
		"WithdrawCheck": n.WithdrawCheck(noon, r, &d),
		"Withdraw":      withdrawn,
		"CheckBatch":    errs[0],
	} {
		if !errors.Is(err, limiter.ErrClosed) {
			t.Errorf("%s of a closed partition = %v, want %v", call, err, limiter.ErrClosed)
		}
	}
	if d.Change != 0 || d.Large || c.Change != 0 || c.Large {
		t.Errorf("calls to a closed partition made changes %d and %d, want none", d.Change, c.Change)
	}
	later := noon.Add(time.Hour) // leases are over, and the sweep comes by
	n.Sweep(later, 2*limiter.Partitions)
	if s := n.Stats(); s.Expired != 0 || s.CopiedIDs == 0 || s.CopiedKeys == 0 || s.Keys+s.IDs+s.Reservations != 0 {
		t.Errorf("Stats() = %+v, want copies, and no expired lease", s)
	}
	if got := n.Snapshot(noon, acme, nil); len(got) == 0 || n.Seq(acme) != seq {
		t.Errorf("Seq() = %d, want %d", n.Seq(acme), seq)
	}
	if err := n.ApplyFull(noon, acme, before, time.LoadLocation); err != nil {
		t.Fatalf("ApplyFull() = %v", err)
	}
	n.Open(acme, seq+10)
	if d = n.reserve(noon, r); d.Change <= seq+10 {
		t.Errorf("a change after Open(%d) is %d, want more", seq+10, d.Change)
	}
	n.Sweep(later, 2*limiter.Partitions)
	if s := n.Stats(); s.Expired == 0 || s.CopiedIDs+s.CopiedKeys != 0 {
		t.Errorf("Stats() of an open partition = %+v, want expired leases, and no copies", s)
	}
	if err := n.ApplyFull(noon, acme, before, time.LoadLocation); !errors.Is(err, limiter.ErrOpen) {
		t.Errorf("ApplyFull() to an open partition = %v, want %v", err, limiter.ErrOpen)
	}
}

// TestCloseIsABarrier checks that nothing changes once Close has returned, while others
// make calls.
func TestCloseIsABarrier(t *testing.T) {
	n := newNode(t, limiter.Options{})
	p := n.plan("acme", limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Calendar: limiter.Day, Amount: 1e9})
	var latest atomic.Uint64 // of all changes that calls made
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			r := &limiter.Request{Key: "acme", Plan: p, Requests: 1}
			for d := (limiter.Decision{}); n.Check(noon, r, &d) == nil; {
				for old := latest.Load(); old < d.Change && !latest.CompareAndSwap(old, d.Change); old = latest.Load() {
				}
			}
		})
	}
	for latest.Load() < 1000 {
		runtime.Gosched()
	}
	seq := n.Close(acme)
	calls.Wait()
	if got := latest.Load(); got != seq || n.Seq(acme) != seq {
		t.Errorf("Close() = %d, and calls made changes up to %d, Seq() = %d", seq, got, n.Seq(acme))
	}
}

// TestLarge checks which calls should wait for another node.
func TestLarge(t *testing.T) {
	n := newNode(t, limiter.Options{})
	minute := func(l limiter.Limit) limiter.Limit {
		l.Algorithm, l.Window = limiter.TokenBucket, time.Minute
		return l
	}
	p := n.plan("acme",
		minute(limiter.Limit{Name: "requests", Dimension: limiter.Requests, Amount: 901}),
		minute(limiter.Limit{Name: "input", Dimension: limiter.InputTokens, Amount: 100, Async: true}),
		minute(limiter.Limit{Name: "output", Dimension: limiter.OutputTokens, Amount: 100, Shadow: true}))
	check := func(requests, input, output int64) limiter.Decision {
		return n.check(noon, &limiter.Request{Key: "acme", Plan: p, Requests: requests, InputTokens: input, OutputTokens: output})
	}
	d := check(9, 50, 50)
	if d.Large || d.Change == 0 {
		t.Errorf("a check of 9 of 901 requests is large or no change: %+v", d)
	}
	if d = check(10, 0, 0); !d.Large {
		t.Error("a check of 10 of 901 requests is not large")
	}
	if d = check(0, 0, 0); d.Large || d.Change != 0 {
		t.Errorf("a check of nothing made change %d, want none", d.Change)
	}
	if d = check(1000, 0, 0); d.Large || d.Change != 0 || d.Outcome != limiter.Denied {
		t.Errorf("a check that was denied made change %d, want none", d.Change)
	}
	r := &limiter.Request{Key: "acme", Plan: p, Requests: 1, ID: "r"}
	if d = n.reserve(noon, r); !d.Large || d.Change == 0 {
		t.Errorf("a reserve has change %d and is large: %v", d.Change, d.Large)
	}
	check(1, 0, 0)
	if d = n.reserve(noon, r); !d.Replayed || !d.Large || d.Change < n.Seq(acme) {
		t.Errorf("a repeated reserve depends on change %d, want %d", d.Change, n.Seq(acme))
	}
	var c limiter.CountResult
	for hits, want := range map[int64]bool{1: false, 2: true} {
		if err := n.Count(noon, &limiter.CountRequest{Key: "acme", Window: limiter.Window{Unit: limiter.UnitDay}, Hits: hits, Limit: 101}, &c); err != nil || c.Large != want || c.Change == 0 {
			t.Errorf("Count of %d of 101 = %+v, %v, want large: %v", hits, c, err, want)
		}
	}
}

// TestListOfChanges checks what the list reaches back to.
func TestListOfChanges(t *testing.T) {
	owner, heir := tracked(t)
	limit := limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Calendar: limiter.Day, Amount: 1e9}
	p := owner.plan("acme", limit)
	r := &limiter.Request{Key: "acme", Plan: p, Requests: 1}
	var w limiter.StateWriter
	reaches := func(what string, after uint64, want bool) {
		t.Helper()
		w.Reset()
		if _, ok := owner.AppendChanges(noon, acme, after, &w); ok != want {
			t.Fatalf("%s: AppendChanges(%d) = %v, want %v", what, after, ok, want)
		}
	}
	owner.check(noon, r)
	reaches("from the beginning", 0, true)
	owner.check(noon, r)
	first := owner.changes(noon, 1)
	if err := heir.apply(noon, first); !errors.Is(err, limiter.ErrGap) || heir.Seq(acme) != 0 {
		t.Errorf("Apply() of changes after 1 to a copy with none = %v, want %v", err, limiter.ErrGap)
	}
	if err := owner.apply(noon, first); !errors.Is(err, limiter.ErrOpen) {
		t.Errorf("Apply() to an open partition = %v, want %v", err, limiter.ErrOpen)
	}
	owner.ForgetChanges(acme, 1)
	reaches("after the first is forgotten", 0, false)
	reaches("after the first is forgotten", 1, true)
	for i := range 70_000 { // more than a list holds
		r.Key = fmt.Sprintf("acme/%d", i)
		r.Plan = plan(r.Key, nil, p.Levels[0].Limits)
		owner.check(noon, r)
	}
	reaches("after too many", 2, false)
	data, seq := owner.SnapshotAt(noon, acme, nil)
	if err := heir.ApplyFull(noon, acme, data, time.LoadLocation); err != nil || heir.Seq(acme) != seq {
		t.Fatalf("ApplyFull() = %v with changes up to %d, want %d", err, heir.Seq(acme), seq)
	}
	owner.check(noon, r)
	heir.mustApply(noon, owner.changes(noon, seq))
	if heir.Seq(acme) != seq+1 {
		t.Errorf("the copy has changes up to %d, want %d", heir.Seq(acme), seq+1)
	}
	owner.Track(acme, false)
	reaches("not tracked", seq+1, false)
	heir.Clear(acme)
	if s := heir.Stats(); heir.Seq(acme) != 0 || s.CopiedKeys != 0 {
		t.Errorf("after Clear: changes up to %d and %d keys, want none", heir.Seq(acme), s.CopiedKeys)
	}
}

// TestManyPartitionsInAMessage checks that a message defines everything once, and that a
// section which cannot be applied does not keep others from being.
func TestManyPartitionsInAMessage(t *testing.T) {
	owner, heir := newNode(t, limiter.Options{}), newNode(t, limiter.Options{})
	limits := tokenLimits()
	var w limiter.StateWriter
	sizes := []int{}
	keys := []string{"a", "b", "c"}
	for i, key := range keys {
		part := limiter.PartitionOf(key)
		owner.Track(part, true)
		if i != 1 {
			heir.Close(part)
		}
		owner.reserve(noon, &limiter.Request{Key: key, Plan: owner.plan(key, limits...), Requests: 1, InputTokens: 5, ID: key})
		if _, ok := owner.AppendChanges(noon, part, 0, &w); !ok {
			t.Fatal("AppendChanges() = false")
		}
		sizes = append(sizes, w.Len())
	}
	if first, second := sizes[0], sizes[1]-sizes[0]; second >= first || w.Partitions() != 3 {
		t.Errorf("%d sections, the first of %d bytes, the second of %d, want 3, and a smaller second one", w.Partitions(), first, second)
	}
	r, err := heir.ReadChanges(w.Message(), time.LoadLocation)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; r.Next(); i++ {
		part, after, through := r.Section()
		if part != limiter.PartitionOf(keys[i]) || after != 0 || through != 1 {
			t.Errorf("section %d is of partition %d, changes after %d through %d", i, part, after, through)
		}
		if err := heir.Apply(noon, r); errors.Is(err, limiter.ErrOpen) != (i == 1) || err != nil && i != 1 {
			t.Errorf("Apply() of section %d = %v", i, err)
		}
	}
	if s := heir.Stats(); r.Err() != nil || s.CopiedIDs != 2 {
		t.Errorf("%d ids in copies, error %v, want 2", s.CopiedIDs, r.Err())
	}
}

// copiedMessage returns a message of all kinds of changes, and the full copy to which it
// belongs.
func copiedMessage(t testing.TB) (full, message []byte) {
	owner := newNode(t, limiter.Options{})
	owner.Track(acme, true)
	p := busy(owner)
	full, seq := owner.SnapshotAt(noon.Add(time.Second), acme, nil)
	owner.settle(noon.Add(time.Second), limiter.Usage{Key: "acme/alice", ID: "r1", InputTokens: 30, OutputTokens: 3})
	owner.cancel(noon.Add(time.Second), "acme/alice", "r2")
	for i := range 12 {
		owner.reserve(noon.Add(time.Second), &limiter.Request{Key: "acme/alice", Model: "m", Plan: p, Requests: 1, ID: fmt.Sprint("more", i), Attempt: uint64(i)})
	}
	_, _ = owner.Withdraw(noon.Add(time.Second), "acme/alice", "more5", 5)
	owner.count(noon.Add(time.Second), limiter.CountRequest{Key: "acme", Window: limiter.Window{Unit: limiter.UnitYear, Multiple: 2}, Limit: 5, Hits: 7, ID: "again"})
	return full, owner.changes(noon.Add(time.Second), seq)
}

// TestDamagedChanges cuts a message at every byte and flips bits of every byte.
func TestDamagedChanges(t *testing.T) {
	full, message := copiedMessage(t)
	now := noon.Add(2 * time.Second)
	n := newNode(t, limiter.Options{})
	n.Close(acme)
	if err := n.ApplyFull(now, acme, full, time.LoadLocation); err != nil {
		t.Fatal(err)
	}
	before := n.Snapshot(now, acme, nil)
	for i := range message {
		flipped := bytes.Clone(message)
		flipped[i] ^= 0x40
		for _, damaged := range [][]byte{message[:i], flipped} {
			if n.apply(now, damaged) == nil {
				t.Fatalf("ReadChanges of a message damaged at byte %d = nil, want an error", i)
			}
		}
	}
	if !bytes.Equal(n.Snapshot(now, acme, nil), before) {
		t.Error("a damaged message changed the copy")
	}
	n.mustApply(now, message)
	after := n.Snapshot(now, acme, nil)
	n.mustApply(now, message)
	if !bytes.Equal(n.Snapshot(now, acme, nil), after) {
		t.Error("a message that was applied twice changed the copy")
	}
}

// FuzzApply changes messages and corrects their checksum. Apply must not panic, and after
// an error the copy is unchanged or empty. What it accepts must work when it is opened.
func FuzzApply(f *testing.F) {
	full, message := copiedMessage(f)
	now := noon.Add(2 * time.Second)
	f.Add(message, 0, byte(0))
	f.Add([]byte("brd\x01A"+strings.Repeat("0", 73)), 0, byte(0)) // more definitions than bytes
	for i := range 200 {
		f.Add(message, i*len(message)/200, byte(1+i%255))
	}
	base := newNode(f, limiter.Options{})
	f.Fuzz(func(t *testing.T, data []byte, at int, flip byte) {
		data = bytes.Clone(data)
		if len(data) > 8 {
			data[max(at, 0)%len(data)] ^= flip
			binary.LittleEndian.PutUint64(data[len(data)-8:], xxhash.Sum64(data[:len(data)-8]))
		}
		n := &node{Engine: base.Engine, t: t, catalog: base.catalog}
		n.Close(acme)
		if err := n.ApplyFull(now, acme, full, time.LoadLocation); err != nil {
			t.Fatal(err)
		}
		before := n.Snapshot(now, acme, nil)
		if err := n.apply(now, data); err != nil && !bytes.Equal(n.Snapshot(now, acme, nil), before) {
			if s := n.Stats(); s.CopiedKeys != 0 || s.CopiedIDs != 0 || n.Seq(acme) != 0 {
				t.Fatalf("Apply() = %v, and left %d keys and %d ids", err, s.CopiedKeys, s.CopiedIDs)
			}
			return
		}
		n.Open(acme, 0)
		useRestored(t, n, now)
		n.Close(acme)
	})
}
