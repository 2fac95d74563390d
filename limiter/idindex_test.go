// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestIDIndexIsMap compares the index with a map while its tables grow and split, with
// hashes that collide and with many that do not.
func TestIDIndexIsMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x idIndex
		want := map[uint32]uint32{} // entry -> hash
		spread := rapid.SampledFrom([]uint32{1, 1 << 29, 0x9e3779b1}).Draw(t, "spread")
		most := map[uint32]int{1: 300, 1 << 29: 40, 0x9e3779b1: 3000}[spread]
		next := uint32(0)
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			for range rapid.IntRange(0, most).Draw(t, "adds") {
				next++
				want[next] = next * spread
				x.insert(want[next], next)
			}
			remove := rapid.IntRange(0, len(want)).Draw(t, "removes")
			for entry, h := range want {
				if remove--; remove < 0 {
					break
				}
				x.remove(h, entry)
				delete(want, entry)
			}
			for entry, h := range want {
				table, steps := x.table(h), 0
				for pos := table.find(h, home(h, len(table.cells))); pos < 0 || uint32(table.cells[pos]) != entry; pos = table.find(h, pos+1) {
					if steps++; pos < 0 || steps > len(table.cells) {
						t.Fatalf("entry %d of %d is not found", entry, len(want))
					}
				}
				if len(table.cells) > maxIDCells*5/4+4 {
					t.Fatalf("a table has %d cells, want about %d at most", len(table.cells), maxIDCells)
				}
			}
			if x.n != len(want) {
				t.Fatalf("the index has %d entries, want %d", x.n, len(want))
			}
		}
		for entry, h := range want {
			x.remove(h, entry)
		}
		if x.trim(); x.n != 0 || x.first.cells != nil {
			t.Fatalf("%d entries after all are removed", x.n)
		}
	})
}

// TestFloodsAtOnce lets many roots flood from several goroutines, which take room from
// each other, and checks that no unit of room is lost and none is made up.
func TestFloodsAtOnce(t *testing.T) {
	const most, goroutines, calls = 1 << 10, 8, 4000
	e := New(Options{MaxIDs: most})
	set, err := e.catalog.LimitSet([]Limit{{Name: "slots", Dimension: Concurrent, Algorithm: Concurrency, Amount: 1 << 40}})
	if err != nil {
		t.Fatal(err)
	}
	now := Time{Mono: 1, Wall: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixNano()}
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			var d Decision
			for i := range calls {
				root := "root-" + strconv.Itoa((g+i*i)%37)
				if i%3 == 0 {
					root = "root-" + strconv.Itoa(g) // floods more than it shares
				}
				r := &Request{Key: root, ID: strconv.Itoa(g*calls + i), Attempt: uint64(g*calls + i + 1), Plan: &Plan{Count: 1}}
				r.Plan.Levels[0] = Level{End: len(root), Limits: set}
				switch i % 5 {
				case 0:
					_ = e.Check(now, r, &d)
				case 1:
					_ = e.Reserve(now, r, &d)
					_ = e.Cancel(now, root, r.ID, &d)
				case 2:
					_ = e.Reserve(now, r, &d)
					_, _ = e.Withdraw(now, root, r.ID, r.Attempt)
				default:
					_ = e.Reserve(now, r, &d)
					_ = e.Settle(now, &Usage{Key: root, ID: r.ID, Final: true}, &d)
				}
			}
		})
	}
	wg.Wait()
	total := e.ids.left.Load()
	for i := range e.shards {
		total += int64(e.shards[i].entries.n) + int64(e.shards[i].idQuota)
	}
	if total != most {
		t.Errorf("%d ids are remembered or free, want %d", total, most)
	}
	if s := e.Stats(); s.Reservations != 0 || s.IDsFull != 0 {
		t.Errorf("%d reservations are live and %d were denied, want none", s.Reservations, s.IDsFull)
	}
}
