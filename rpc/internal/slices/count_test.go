// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

func hits(n int64) *pb.CountRequest {
	return &pb.CountRequest{Key: "c", Limit: 100, Unit: pb.Unit_UNIT_MINUTE, Hits: n}
}

// counted is the answer to hits of which 40 were used before the slice.
func counted() *pb.Counted {
	return &pb.Counted{Limit: 100, Used: 40, WindowEnd: 7_000_000_000, ResetNanos: int64(5 * time.Second), Owner: "a"}
}

// lendHits has s hold so many hits for a second.
func (s *scene) lendHits(id string, n int64) {
	s.Helper()
	if !s.Asks(hits(1)) {
		s.Fatal("Asks() = false, want true")
	}
	s.Granted(hits(1), s.Now(), &pb.Slice{Id: id, Amounts: []int64{n}, LeaseNanos: int64(time.Second)}, slices.DecisionOf(counted()))
}

// TestCount: hits are counted from a slice as far as it goes, and answered as the owner would.
func TestCount(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		var c pb.Counted
		if s.Count(hits(1), &c, true) {
			t.Error("Count() without a slice = true")
		}
		s.lendHits("s", 20)
		time.Sleep(100 * time.Millisecond)
		for i, n := range []int64{1, 5, 3} {
			if !s.Count(hits(n), &c, true) {
				t.Fatalf("Count() of %d hits = false, want it from the slice", n)
			}
			used := []int64{41, 46, 49}[i]
			if c.Limit != 100 || c.Used != used || c.WindowEnd != 7_000_000_000 || c.ResetNanos != int64(4900*time.Millisecond) ||
				c.Owner != "a" || c.Route != pb.Route_ROUTE_SLICE || c.Full || c.Replayed {
				t.Errorf("Count() of %d hits = %v, want %d used", n, &c, used)
			}
		}
		back, another, window, mine, late := hits(1), hits(1), hits(1), hits(1), hits(1)
		back.GiveBack, another.Limit, window.Unit, mine.RequestId, late.WindowEnd = true, 99, pb.Unit_UNIT_HOUR, "id", 1
		for _, q := range []*pb.CountRequest{hits(0), hits(12), back, another, window, mine, late, {Key: "d", Limit: 100, Unit: pb.Unit_UNIT_MINUTE, Hits: 1}} {
			if s.Count(q, &c, true) {
				t.Errorf("Count(%v) = true, want it left to the owner", q)
			}
		}
		if s.take(check("c"), 1) != 0 {
			t.Error("a check was answered from hits")
		}
		one := hits(1)
		one.UnitMultiplier = 1
		if !s.Count(one, &c, true) || c.Used != 50 {
			t.Errorf("Count(%v) = %v, want 50 used: a multiplier of 0 is 1", one, &c)
		}
		if s.Count(hits(1), &c, true) {
			t.Error("Count() of a slice of which half is spent = true, want that it brings a new one")
		}
		if !s.Count(hits(10), &c, false) || c.Used != 60 {
			t.Errorf("Count() = %v, want the rest of the slice", &c)
		}
		s.wantReturned(map[string]int64{"s": 5})
		if r := s.returns["s"]; len(r.GetSpent()) != 1 || r.GetSpent()[0] != 20 || len(r.GetKept()) != 0 {
			t.Errorf("returned %v, want 20 hits spent", r)
		}
	})
}

// TestCountEnds: a slice of a counter is returned when it is recalled or over, and one that
// does not fit its answer at once.
func TestCountEnds(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		var c pb.Counted
		s.lendHits("recalled", 20)
		s.Count(hits(3), &c, true)
		s.Recall("c")
		s.wantReturned(map[string]int64{"recalled": 1})
		time.Sleep(time.Second)
		s.lendHits("over", 20)
		s.Count(hits(4), &c, true)
		time.Sleep(time.Second)
		synctest.Wait()
		s.wantReturned(map[string]int64{"recalled": 1, "over": 1})
		full, replayed, beyond := counted(), counted(), counted()
		full.Full, replayed.Replayed, beyond.Used = true, true, 101
		for id, answer := range map[string]*pb.Counted{"full": full, "replayed": replayed, "beyond": beyond} {
			s.Granted(hits(1), s.Now(), &pb.Slice{Id: id, Amounts: []int64{20}, LeaseNanos: int64(time.Second)}, slices.DecisionOf(answer))
			if s.Count(hits(1), &c, true) {
				t.Errorf("Count() after an answer that is %s = true", id)
			}
		}
		s.wantReturned(map[string]int64{"recalled": 1, "over": 1, "full": 0, "replayed": 0, "beyond": 0})
		if r := s.returns["over"].GetSpent(); len(r) != 1 || r[0] != 4 {
			t.Errorf("%v was spent, want 4 hits", r)
		}
	})
}

func BenchmarkCount(b *testing.B) {
	t := slices.New(slices.Options{Now: func() int64 { return 1 }, Send: func(context.Context, *pb.Item) error { return nil }})
	defer func() { _ = t.Close(context.Background()) }()
	t.Granted(hits(1), 1, &pb.Slice{Id: "s", Amounts: []int64{1 << 52}, LeaseNanos: 1 << 62}, slices.DecisionOf(&pb.Counted{Limit: 1 << 53}))
	var c pb.Counted
	q := hits(1)
	q.Limit = 100
	b.ReportAllocs()
	for b.Loop() {
		if !t.Count(q, &c, false) {
			b.Fatal("not counted")
		}
	}
}
