// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// copyPart is the partition of the tests of copies.
var copyPart = PartitionOf("r")

// side is an engine with its policies and its clock.
type side struct {
	*Engine
	sets []*LimitSet
	skew int64
}

func (s *side) at(now Time) Time { return Time{now.Mono + s.skew, now.Wall} }

func (s *side) part() *partition { return &s.shards[copyPart].partition }

// copyCall is a call whose arguments are drawn. It returns its result.
type copyCall func(s *side, now Time) (d Decision, c CountResult, err error)

// drawCall draws a call for one of a few keys and ids of root r.
func drawCall(t *rapid.T) copyCall {
	key := "r/" + rapid.StringMatching(`[a-z]|[ab]/[a-d]|long-long-long-long-long-long-long-name-[a-c]`).Draw(t, "key")
	id := rapid.StringMatching(`[a-p]`).Draw(t, "id")
	attempt := rapid.Uint64Range(0, 5).Draw(t, "attempt")
	switch op := rapid.IntRange(0, 14).Draw(t, "op"); op {
	case 0, 1, 2, 3, 4, 5, 6:
		sets := [3]int{}
		for i := range sets {
			sets[i] = rapid.IntRange(0, 4).Draw(t, "limits")
		}
		r := Request{
			Key: key, Model: rapid.SampledFrom([]string{"", "m", "n"}).Draw(t, "model"), ID: id,
			InputTokens: rapid.Int64Range(0, 40).Draw(t, "input"), OutputTokens: rapid.Int64Range(0, 40).Draw(t, "output"),
			TTL: time.Duration(rapid.IntRange(1, 90).Draw(t, "ttl")) * time.Second, Attempt: attempt, Force: rapid.IntRange(0, 3).Draw(t, "force") == 0,
		}
		if op == 0 && r.Attempt == 0 {
			r.ID = ""
		}
		return func(s *side, now Time) (d Decision, _ CountResult, err error) {
			plan := &Plan{Tier: "t", Rates: Rates{Weights: DefaultWeights}, Count: 2}
			plan.Levels[0] = Level{End: 1, Limits: s.sets[sets[0]]}
			plan.Levels[1] = Level{End: len(key), Limits: s.sets[sets[1]], Model: s.sets[sets[2]]}
			r := r
			switch r.Plan = plan; op {
			case 0, 1:
				err = s.Check(now, &r, &d)
			case 6:
				err = s.WithdrawCheck(now, &r, &d)
			default:
				err = s.Reserve(now, &r, &d)
			}
			return d, CountResult{}, err
		}
	case 7, 8:
		u := Usage{Key: key, ID: id, InputTokens: -1, OutputTokens: rapid.Int64Range(-1, 900).Draw(t, "used"), Final: rapid.Bool().Draw(t, "final")}
		return func(s *side, now Time) (d Decision, _ CountResult, err error) {
			err = s.Settle(now, &u, &d)
			return d, CountResult{}, err
		}
	case 9:
		return func(s *side, now Time) (d Decision, _ CountResult, err error) {
			err = s.Cancel(now, key, id, &d)
			return d, CountResult{}, err
		}
	case 13, 14:
		return drawAdjustment(t, key, id)
	case 10:
		return func(s *side, now Time) (d Decision, _ CountResult, err error) {
			d.Change, err = s.Withdraw(now, key, id, attempt)
			return d, CountResult{}, err
		}
	default:
		q := CountRequest{Key: key, Window: Window{Unit: Unit(rapid.IntRange(1, 3).Draw(t, "unit"))}, Hits: rapid.Int64Range(0, 9).Draw(t, "hits"), GiveBack: rapid.Bool().Draw(t, "back"), Force: rapid.Bool().Draw(t, "force")}
		if rapid.Bool().Draw(t, "with an id") {
			q.ID = id
		}
		return func(s *side, now Time) (_ Decision, c CountResult, err error) {
			err = s.Count(now, &q, &c)
			return Decision{}, c, err
		}
	}
}

func drawPass(t *rapid.T) time.Duration {
	most := rapid.SampledFrom([]time.Duration{0, time.Second, 40 * time.Second, 11 * time.Minute}).Draw(t, "most")
	return time.Duration(rapid.Int64Range(0, int64(most)).Draw(t, "pass"))
}

// replicator copies a partition of one side to the other.
type replicator struct {
	owner, heir *side
	w           StateWriter
	acked       []uint64 // numbers up to which the heir once had everything
	messages    [][]byte
	run         *SnapshotRun
	runAt       Time
}

// step sends a message, repeats one, forgets changes or makes a full copy.
func (r *replicator) step(t *rapid.T, now Time) {
	switch rapid.IntRange(0, 7).Draw(t, "replicate") {
	case 0, 1, 2:
		after := r.heir.Seq(copyPart)
		if n := len(r.acked); n > 0 && rapid.Bool().Draw(t, "older") { // it may have more than it said
			after = r.acked[rapid.IntRange(max(0, n-4), n-1).Draw(t, "which")]
		}
		r.send(t, now, after)
	case 3:
		if n := len(r.messages); n > 0 {
			r.apply(t, now, r.messages[rapid.IntRange(max(0, n-4), n-1).Draw(t, "which message")], true)
		}
	case 4:
		if n := len(r.acked); n > 0 {
			r.owner.ForgetChanges(copyPart, r.acked[n-1])
		}
	case 5:
		r.full(t, now)
	case 6:
		if r.run == nil {
			r.run, r.runAt = r.owner.BeginSnapshot(r.owner.at(now), copyPart), now
		}
	case 7:
		if r.run != nil {
			if r.run.Finish(); r.run.s.seq >= r.heir.Seq(copyPart) {
				r.restore(t, r.runAt, r.run.s.out)
			}
			r.run = nil
		}
	}
	if r.run != nil && rapid.Bool().Draw(t, "step of the snapshot") {
		r.run.Step()
	}
}

func (r *replicator) full(t *rapid.T, now Time) {
	if r.run != nil {
		r.run.Finish()
		r.run = nil
	}
	data, seq := r.owner.SnapshotAt(r.owner.at(now), copyPart, nil)
	r.restore(t, now, data)
	if got := r.heir.Seq(copyPart); got != seq {
		t.Fatalf("a full copy has changes up to %d, want %d", got, seq)
	}
}

func (r *replicator) restore(t *rapid.T, now Time, data []byte) {
	if err := r.heir.ApplyFull(r.heir.at(now), copyPart, data, nil); err != nil {
		t.Fatalf("ApplyFull() = %v", err)
	}
	r.acked = append(r.acked, r.heir.Seq(copyPart))
}

// send sends the changes after a number, or a full copy if the list does not reach back.
func (r *replicator) send(t *rapid.T, now Time, after uint64) {
	r.w.Reset()
	through, ok := r.owner.AppendChanges(r.owner.at(now), copyPart, after, &r.w)
	if !ok {
		if r.w.Len() != 0 {
			t.Fatal("AppendChanges wrote something, and then refused")
		}
		r.full(t, now)
		return
	}
	if r.w.Partitions() == 0 {
		if after < through {
			t.Fatalf("no changes after %d through %d", after, through)
		}
		return
	}
	data := bytes.Clone(r.w.Message())
	r.messages = append(r.messages, data)
	r.apply(t, now, data, false)
	if got := r.heir.Seq(copyPart); got != through {
		t.Fatalf("a copy has changes up to %d, want %d", got, through)
	}
	r.acked = append(r.acked, through)
}

func (r *replicator) apply(t *rapid.T, now Time, data []byte, mayLack bool) {
	in, err := r.heir.ReadChanges(data, nil)
	if err != nil {
		t.Fatalf("ReadChanges() = %v", err)
	}
	for in.Next() {
		if err := r.heir.Apply(r.heir.at(now), in); err != nil && (!mayLack || !errors.Is(err, ErrGap)) {
			t.Fatalf("Apply() = %v", err)
		}
	}
	if in.Err() != nil {
		t.Fatalf("Next() = %v", in.Err())
	}
}

// TestCopyIsTheOwner makes random calls to an engine and copies its state to another, by
// changes and in full. Then both decide the same calls, and must answer the same. After
// that the other engine is the owner.
func TestCopyIsTheOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := Time{Mono: 1e9, Wall: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC).UnixNano()}
		owner, heir := &side{Engine: New(Options{})}, &side{Engine: New(Options{})}
		heir.sets = stressSets(t, heir.catalog)
		_, _ = heir.catalog.LimitSet([]Limit{{Name: "other", Dimension: Spend, Algorithm: TokenBucket, Amount: 1, Window: time.Second}})
		owner.sets = stressSets(t, owner.catalog)
		heir.skew = rapid.Int64Range(0, 1e6).Draw(t, "skew") * 625e6 // a multiple of all sub-windows
		heir.Close(copyPart)
		owner.Track(copyPart, true)
		heir.Track(copyPart, true)
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			r := &replicator{owner: owner, heir: heir}
			for range rapid.IntRange(0, 60).Draw(t, "steps") {
				switch rapid.IntRange(0, 5).Draw(t, "what") {
				case 0:
					now = now.Add(drawPass(t))
				case 1, 2:
					r.step(t, now)
				default:
					call := drawCall(t)
					before := owner.Seq(copyPart)
					d, c, err := call(owner, owner.at(now))
					if after := owner.Seq(copyPart); max(d.Change, c.Change) > after || err == nil && d.Change != 0 && d.Change < before {
						t.Fatalf("a call says that it made change %d, of %d to %d", d.Change, before, after)
					}
					expired := heir.Stats().Expired
					if _, _, err := call(heir, heir.at(now)); !errors.Is(err, ErrClosed) {
						t.Fatalf("a call to a closed partition = %v, want %v", err, ErrClosed)
					}
					if heir.Stats().Expired != expired {
						t.Fatal("a lease expired in a copy")
					}
				}
				owner.part().check(t)
				heir.part().check(t)
			}
			if r.run != nil {
				r.run.Finish()
			}
			seq := owner.Close(copyPart)
			r.send(t, now, heir.Seq(copyPart))
			heir.Open(copyPart, seq)
			owner.Open(copyPart, seq)
			compare(t, owner, heir, &now)
			if owner.Close(copyPart) != heir.Seq(copyPart) { // it had records without usage, which it adapted to other policies
				owner.Clear(copyPart)
			}
			owner, heir = heir, owner
		}
	})
}

// compare makes the same calls to two engines.
func compare(t *rapid.T, a, b *side, now *Time) {
	for range rapid.IntRange(5, 60).Draw(t, "calls after") {
		if rapid.IntRange(0, 4).Draw(t, "time passes") == 0 {
			*now = now.Add(drawPass(t))
		}
		call := drawCall(t)
		wantD, wantC, wantErr := call(a, a.at(*now))
		d, c, err := call(b, b.at(*now))
		if (d.Change == 0) != (wantD.Change == 0) || (c.Change == 0) != (wantC.Change == 0) {
			t.Fatalf("the copy makes change %d, the owner %d", max(d.Change, c.Change), max(wantD.Change, wantC.Change))
		}
		d.Change, c.Change = wantD.Change, wantC.Change
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || c != wantC {
			t.Fatalf("the copy answers %+v, %v, want %+v, %v", c, err, wantC, wantErr)
		}
		if diff := cmp.Diff(wantD, d, cmpopts.IgnoreUnexported(Decision{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("the copy answers differently (-owner +copy):\n%s", diff)
		}
		a.part().check(t)
		b.part().check(t)
	}
}

// TestCopiesWithoutRoom makes random calls to an engine with room for few keys and ids,
// whose removals its copy must follow, and whose copy has room for as few. The copy stays
// within its bounds, except for reservations and what they charge, and is consistent.
func TestCopiesWithoutRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := Time{Mono: 1e9, Wall: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC).UnixNano()}
		keys, ids := rapid.IntRange(4, 30).Draw(t, "room for keys"), rapid.IntRange(4, 40).Draw(t, "room for ids")
		owner, heir := &side{Engine: New(Options{MaxKeys: 12, MaxKeysPerRoot: 8, MaxIDs: 20})}, &side{Engine: New(Options{MaxKeys: keys, MaxIDs: ids})}
		heir.sets, owner.sets = stressSets(t, heir.catalog), stressSets(t, owner.catalog)
		heir.Close(copyPart)
		owner.Track(copyPart, true)
		r := &replicator{owner: owner, heir: heir}
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0:
				now = now.Add(drawPass(t))
			case 1, 2:
				r.step(t, now)
			case 3:
				owner.Sweep(owner.at(now), 2*Partitions)
			case 4:
				heir.Sweep(heir.at(now), 2*Partitions)
			default:
				_, _, _ = drawCall(t)(owner, owner.at(now))
			}
			owner.part().check(t)
			p := heir.part()
			p.check(t)
			s := heir.Stats()
			if s.Keys+s.IDs+s.Reservations > 0 {
				t.Fatalf("Stats() = %+v, want copies only", s)
			}
			pinned, live := 0, len(p.leaseHeap)+int(p.expired)
			for id := nextRecord(&p.records, 0); id != 0; id = nextRecord(&p.records, id) {
				pinned += int(boolInt(p.records.at(id).pins > 0))
			}
			if s.CopiedKeys > keys+pinned || s.CopiedIDs > ids+live {
				t.Fatalf("a copy has %d keys, of which %d are pinned, and %d ids, of which %d are live, want at most %d and %d besides these", s.CopiedKeys, pinned, s.CopiedIDs, live, keys, ids)
			}
			if k, i := heir.copiedKeys.left.Load()+int64(s.CopiedKeys+p.keyQuota), heir.copiedIDs.left.Load()+int64(s.CopiedIDs+p.idQuota); k != int64(keys) || i != int64(ids) {
				t.Fatalf("the copies account for room for %d keys and %d ids, want %d and %d", k, i, keys, ids)
			}
		}
		if r.run != nil {
			r.run.Finish()
		}
		seq := owner.Close(copyPart)
		r.send(t, now, heir.Seq(copyPart))
		heir.Open(copyPart, seq)
		for range 20 {
			_, _, _ = drawCall(t)(heir, heir.at(now))
			heir.Sweep(heir.at(now), 2*Partitions)
			heir.part().check(t)
			if s := heir.Stats(); heir.keys.left.Load()+int64(s.Keys+heir.part().keyQuota) != int64(keys) || heir.ids.left.Load()+int64(s.IDs+heir.part().idQuota) != int64(ids) || s.CopiedKeys+s.CopiedIDs > 0 {
				t.Fatalf("after taking over: %+v, with room for %d and %d more", s, heir.keys.left.Load(), heir.ids.left.Load())
			}
		}
	})
}
