// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"runtime"
	"strconv"
	"testing"
	"time"
	"unsafe"
)

func TestSizeOfIDs(t *testing.T) {
	if n := unsafe.Sizeof(idEntry{}); n != 48 {
		t.Errorf("an entry has %d bytes, want 48", n)
	}
	if n := unsafe.Sizeof(reservation{}); n > 248 {
		t.Errorf("a reservation has %d bytes, want at most 248", n)
	}
}

// TestMemoryOfIDs measures what remembered ids take on the heap, with their index, when
// they are of one root and when they are of many.
func TestMemoryOfIDs(t *testing.T) {
	const ids = 1 << 18
	now := Time{Mono: 1, Wall: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixNano()}
	for _, tt := range []struct {
		name                string
		roots               int
		most                uint64 // bytes of an id
		reservation, settle bool
	}{
		{name: "checks of one root", roots: 1, most: 64},
		{name: "checks of 1,024 roots", roots: 1024, most: 64},
		{name: "live reservations of one root", roots: 1, most: 320, reservation: true},
		{name: "live reservations of 1,024 roots", roots: 1024, most: 321, reservation: true},
		{name: "settled reservations of one root", roots: 1, most: 320, reservation: true, settle: true},
		{name: "settled reservations of 1,024 roots", roots: 1024, most: 321, reservation: true, settle: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := New(Options{MaxIDs: 2 * ids})
			set, err := e.catalog.LimitSet([]Limit{
				{Name: "requests", Dimension: Requests, Algorithm: FixedWindow, Amount: 1 << 50, Calendar: Day},
				{Name: "tokens", Dimension: Tokens, Algorithm: FixedWindow, Amount: 1 << 50, Calendar: Day},
				{Name: "spend", Dimension: Spend, Algorithm: FixedWindow, Amount: 1 << 50, Calendar: Day},
				{Name: "slots", Dimension: Concurrent, Algorithm: Concurrency, Amount: 1 << 50},
			})
			if err != nil {
				t.Fatal(err)
			}
			plan := &Plan{Tier: "t", Rates: Rates{Weights: DefaultWeights, Priced: true, InputPrice: 1, OutputPrice: 2}, Count: 1}
			roots := make([]string, tt.roots)
			var d Decision
			r := &Request{Plan: plan, Requests: 1, InputTokens: 9, OutputTokens: 9}
			for i, found := 0, 0; found < tt.roots; i++ { // one in each partition
				root := "root-" + strconv.Itoa(i)
				slot := PartitionOf(root) % tt.roots
				if roots[slot] != "" {
					continue
				}
				roots[slot] = root
				found++
				r.Key, plan.Levels[0] = root, Level{End: len(root), Limits: set}
				if err := e.Check(now, r, &d); err != nil { // the state of the keys is not that of the ids
					t.Fatal(err)
				}
			}
			heap := func() uint64 {
				runtime.GC()
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			before := heap()
			for i := range ids {
				r.Key, r.ID = roots[i%tt.roots], strconv.Itoa(i)
				plan.Levels[0] = Level{End: len(r.Key), Limits: set}
				call := e.Check
				if tt.reservation {
					call = e.Reserve
				}
				if err := call(now, r, &d); err != nil || d.Outcome != Allowed {
					t.Fatalf("call %d = %s (%s), %v, want allowed", i, d.Outcome, d.Reason, err)
				}
				if tt.settle {
					if err := e.Settle(now, &Usage{Key: r.Key, ID: r.ID, Final: true}, &d); err != nil {
						t.Fatal(err)
					}
				}
			}
			each := (heap() - before + ids/2) / ids
			t.Logf("%d bytes each", each)
			if each > tt.most {
				t.Errorf("an id takes %d bytes, want at most %d", each, tt.most)
			}
			runtime.KeepAlive(e)
			if s := e.Stats(); s.IDs != ids {
				t.Errorf("%d ids are remembered, want %d", s.IDs, ids)
			}
		})
	}
}
