// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// check verifies the invariants of a partition.
func (p *partition) check(t interface{ Fatalf(string, ...any) }) {
	cat := p.engine.catalog
	pins, marks, slots := map[uint32]uint32{}, map[uint32]int{}, map[*bucket]int64{}
	queued, tombstones, expired := len(p.leaseHeap), 0, 0
	perAccount, withdrawals, terms := map[uint32]uint32{}, map[uint32]uint32{}, map[uint32]uint32{}
	for id := p.entries.next(0); id != 0; id = p.entries.next(id) {
		entry := p.entries.at(id)
		perAccount[entry.account()]++
		if entry.state() == idForgotten {
			tombstones++
			continue
		}
		if entry.due > p.mono { // else a look forgets it
			if found, _ := p.findEntry(entry.account(), entry.key()); found != id {
				t.Fatalf("id entry %d is not found by its id", id)
			}
		}
		switch entry.state() {
		case idWithdrawal:
			withdrawals[entry.account()]++
		case idExpired:
			expired++
		}
		if entry.isReservation() {
			terms[entry.terms()]++
		}
		var it chargeIterator
		for it.start(p, entry, ""); it.next(); {
			if !it.pins {
				continue
			}
			c, rec := it.charge, p.byHandle(it.charge.handle)
			if rec == nil || rec.handle != c.handle {
				t.Fatalf("id entry %d charges a record that does not exist", id)
			}
			at := *p.handles.at(c.handle)
			pins[at]++
			have := cat.schema(rec.schema)
			pos := have.find(cat.limit(c.limit).bucketID)
			if pos < 0 {
				t.Fatalf("id entry %d charges a limit that its record lacks", id)
			}
			if it.rec != rec || it.pos != pos || it.limit != have.limits[pos] || it.bucket != p.bucketAt(rec, pos) {
				t.Fatalf("id entry %d: a charge is of bucket %d of another record, want %d", id, it.pos, pos)
			}
			if have.limits[pos].Algorithm == Concurrency {
				slots[it.bucket] += c.charged
			}
			if have.limits[pos].Algorithm == TokenBucket {
				marks[at]++
				if !p.timelineOf(rec, pos).hasMark(c.at) {
					t.Fatalf("id entry %d has no mark %d", id, c.at)
				}
			}
		}
	}
	for id := nextRecord(&p.records, 0); id != 0; id = nextRecord(&p.records, id) {
		rec := p.records.at(id)
		live := 0
		if rec.timelinesID != 0 {
			live = p.timelines.at(rec.timelinesID).live
		}
		if rec.pins != pins[id] || live != marks[id] {
			t.Fatalf("record %d has %d pins and %d marks, want %d and %d", id, rec.pins, live, pins[id], marks[id])
		}
		var buf [maxName]byte
		scope, model := splitName(p.appendName(buf[:0], rec))
		if found, _ := p.find(scope, model); found != id {
			t.Fatalf("record %d is not found by its name %q %q", id, scope, model)
		}
		for i, l := range cat.schema(rec.schema).limits {
			b := *p.bucketAt(rec, i)
			if l.Algorithm == TokenBucket && b.level().negative() || l.Algorithm != TokenBucket && int64(b.lo) < 0 {
				t.Fatalf("record %d, limit %s: state %v", id, l.Name, b)
			}
			if want := slots[p.bucketAt(rec, i)]; l.Algorithm == Concurrency && int64(b.lo) != want {
				t.Fatalf("record %d has %d slots taken, want %d", id, b.lo, want)
			}
		}
	}
	for i, id := range p.leaseHeap {
		entry := p.entries.at(id)
		if int(entry.next) != i || entry.state() != idHeld || i > 0 && p.entries.at(p.leaseHeap[(i-1)/2]).due > entry.due {
			t.Fatalf("the heap of leases is out of order at %d", i)
		}
	}
	accounts := 0
	for account := p.accounts.next(0); account != 0; account = p.accounts.next(account) {
		accounts++
		a := p.accounts.at(account)
		if a.n != perAccount[account] || a.withdrawals != withdrawals[account] || p.accounts.find(a.root) != account {
			t.Fatalf("account %d has %d ids and %d withdrawals, want %d and %d", account, a.n, a.withdrawals, perAccount[account], withdrawals[account])
		}
		for _, q := range []idQueue{a.checks, a.ended} {
			last, due := uint32(0), int64(-1<<63)
			for id := q.head; id != 0; id = p.entries.at(id).next {
				entry := p.entries.at(id)
				if entry.due < due && entry.state() != idCancelled && entry.state() != idForgotten || entry.state() == idHeld || entry.account() != account {
					t.Fatalf("a queue of ids is out of order at %d", id)
				}
				waits := p.records.closed && entry.state() == idExpired // for the owner
				if id == q.head && !waits && p.dueAccount == 0 && p.idsDue > entry.due+generation {
					t.Fatalf("an id is due at %d, and removed at %d", entry.due, p.idsDue)
				}
				last, due = id, max(due, entry.due)
				queued++
			}
			if q.tail != last {
				t.Fatalf("a queue ends at %d, want %d", q.tail, last)
			}
		}
	}
	if accounts != len(perAccount) || accounts != p.accounts.index.n || len(p.accounts.all)-len(p.accounts.free) != accounts {
		t.Fatalf("%d accounts, %d indexed, want %d", accounts, p.accounts.index.n, len(perAccount))
	}
	for id, uses := range terms {
		if p.terms.all[id-1].uses != uses {
			t.Fatalf("terms %d have %d uses, want %d", id, p.terms.all[id-1].uses, uses)
		}
	}
	if len(terms) != p.terms.index.n || expired != int(p.expired) {
		t.Fatalf("%d terms and %d expired reservations, want %d and %d", p.terms.index.n, p.expired, len(terms), expired)
	}
	if queued != int(p.entries.n) || p.ids.n+tombstones != int(p.entries.n) {
		t.Fatalf("%d ids queued, %d indexed, %d tombstones, want %d", queued, p.ids.n, tombstones, p.entries.n)
	}
}

// stressSets returns sets of limits that share names but not definitions. One of them
// needs bucket blocks.
func stressSets(t *rapid.T, c *Catalog) []*LimitSet {
	tokens := func(a Algorithm, n int64, w time.Duration) Limit {
		return Limit{Name: "tokens", Dimension: Tokens, Algorithm: a, Amount: n, Window: w}
	}
	slots := Limit{Name: "concurrent", Dimension: Concurrent, Algorithm: Concurrency, Amount: 3}
	var many []Limit
	for i := range 9 {
		many = append(many, Limit{Name: fmt.Sprint("l", i), Dimension: Tokens, Algorithm: Algorithm(i%3 + 1), Amount: 500, Window: time.Second * time.Duration(i+1)})
	}
	var sets []*LimitSet
	for _, limits := range [][]Limit{
		{tokens(TokenBucket, 100, time.Second), slots},
		{slots, tokens(TokenBucket, 300, time.Minute)},
		{tokens(SlidingWindow, 200, time.Second)},
		{tokens(FixedWindow, 200, time.Second), slots},
		append(many, slots),
	} {
		s, err := c.LimitSet(limits)
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, s)
	}
	return sets
}

// snapshotItems returns the items of a snapshot, sorted.
func snapshotItems(t *rapid.T, e *Engine, now Time, data []byte) (items []string) {
	fresh := newPartition(e)
	d := newRestorer(&fresh, now, PartitionOf("r"), data[len(snapshotMagic):len(data)-8])
	for more := true; more; {
		before := d.buf
		more = d.item(nil)
		if items = append(items, fmt.Sprintf("%x", before[:len(before)-len(d.buf)])); d.err != nil {
			t.Fatalf("a snapshot cannot be read: %v", d.err)
		}
	}
	slices.Sort(items)
	return items
}

// TestInvariants makes random calls to an engine with room for few keys and ids, under
// changing tiers, and checks its invariants after every step.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := New(Options{MaxKeys: 12, MaxKeysPerRoot: 8, MaxIDs: 20})
		sets := stressSets(t, e.catalog)
		now := Time{Mono: 1, Wall: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC).UnixNano()}
		// All keys have one root, so they are in one partition.
		key := rapid.Custom(func(t *rapid.T) string {
			return "r/" + rapid.StringMatching(`[a-z]|[ab]/[a-d]|long-long-long-long-long-long-long-name-[a-c]`).Draw(t, "leaf")
		})
		id, attempt := rapid.StringMatching(`[a-p]`), rapid.Uint64Range(0, 5)
		var d Decision
		var sent []*Request
		shard := &e.shards[PartitionOf("r")]
		var run *SnapshotRun
		var whole []string // the items of a snapshot taken when run began
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			k := key.Draw(t, "key")
			switch rapid.IntRange(0, 13).Draw(t, "op") {
			case 0, 1, 2, 3:
				plan := &Plan{Tier: "t", Rates: Rates{Weights: DefaultWeights}, Count: 2}
				plan.Levels[0] = Level{End: 1, Limits: rapid.SampledFrom(sets).Draw(t, "root's")}
				plan.Levels[1] = Level{End: len(k), Limits: rapid.SampledFrom(sets).Draw(t, "key's"), Model: rapid.SampledFrom(sets).Draw(t, "model's")}
				r := &Request{Key: k, Model: rapid.SampledFrom([]string{"", "m", "n"}).Draw(t, "model"), ID: id.Draw(t, "id"), Plan: plan, InputTokens: rapid.Int64Range(0, 40).Draw(t, "input"), OutputTokens: rapid.Int64Range(0, 40).Draw(t, "output"), TTL: time.Duration(rapid.IntRange(1, 90).Draw(t, "ttl")) * time.Second, Attempt: attempt.Draw(t, "attempt"), Force: rapid.Bool().Draw(t, "force")}
				if rapid.Bool().Draw(t, "reserve") {
					_ = e.Reserve(now, r, &d)
					sent = append(sent, r)
				} else {
					_ = e.Check(now, r, &d)
				}
			case 4, 5:
				_ = e.Settle(now, &Usage{Key: k, ID: id.Draw(t, "id"), InputTokens: -1, OutputTokens: rapid.Int64Range(-1, 900).Draw(t, "used"), Final: rapid.Bool().Draw(t, "final")}, &d)
			case 6:
				_ = e.Cancel(now, k, id.Draw(t, "id"), &d)
			case 7:
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(rapid.SampledFrom([]time.Duration{40 * time.Second, 11 * time.Minute}).Draw(t, "most"))).Draw(t, "time")))
			case 8:
				e.Sweep(now, 2*Partitions)
			case 9:
				if run != nil {
					run.Finish()
					run = nil
				}
				data := e.Snapshot(now, PartitionOf("r"), nil)
				if err := e.Restore(now, PartitionOf("r"), data, nil); err != nil {
					t.Fatalf("Restore of a snapshot: %v", err)
				}
			case 10, 11:
				if len(sent) == 0 || rapid.IntRange(0, 3).Draw(t, "any") == 0 {
					_, _ = e.Withdraw(now, k, id.Draw(t, "id"), attempt.Draw(t, "attempt"))
					break
				}
				r := rapid.SampledFrom(sent[max(0, len(sent)-3):]).Draw(t, "sent")
				_, _ = e.Withdraw(now, r.Key, r.ID, r.Attempt)
			case 12, 13:
				q := &CountRequest{Key: k, Window: Window{Unit: Unit(rapid.IntRange(1, 3).Draw(t, "unit"))}, Hits: rapid.Int64Range(0, 9).Draw(t, "hits"), GiveBack: rapid.Bool().Draw(t, "back"), Force: rapid.Bool().Draw(t, "force")}
				if rapid.Bool().Draw(t, "with an id") {
					q.ID = id.Draw(t, "id")
				}
				_ = e.Count(now, q, new(CountResult))
			}
			switch {
			case run == nil:
				if rapid.IntRange(0, 4).Draw(t, "begin a snapshot") == 0 {
					whole = snapshotItems(t, e, now, e.Snapshot(now, PartitionOf("r"), nil))
					run = e.BeginSnapshot(now, PartitionOf("r"))
				}
			case rapid.Bool().Draw(t, "step") && !run.Step():
				if diff := cmp.Diff(whole, snapshotItems(t, e, now, run.Finish())); diff != "" {
					t.Fatalf("a snapshot in steps differs from one in a single step (-want +got):\n%s", diff)
				}
				run = nil
			}
			shard.check(t)
			if s := e.Stats(); s.Keys > 12 || s.IDs > 20 || e.keys.left.Load()+int64(s.Keys+shard.keyQuota) != 12 || e.ids.left.Load()+int64(s.IDs+shard.idQuota) != 20 {
				t.Fatalf("%d keys and %d ids, with %d and %d left, want 12 and 20 in all", s.Keys, s.IDs, e.keys.left.Load()+int64(shard.keyQuota), e.ids.left.Load()+int64(shard.idQuota))
			}
		}
	})
}
