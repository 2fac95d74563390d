// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Checks with and without a slice allocate nothing in the table.
func TestAllocations(t *testing.T) {
	s := lentForever(t)
	costs := map[string]int64{"images": 1}
	other := &pb.CheckRequest{Key: "k", Costs: costs}
	var a slices.Answer
	for name, call := range map[string]func(){
		"Take() from a slice":        func() { s.Take(check1, &a, true) },
		"Take() of another shape":    func() { s.Take(other, &a, true) },
		"Take() of another key":      func() { s.Take(check2, &a, true) },
		"Asks() with a slice":        func() { s.Asks(check1) },
		"Asks() for another key":     func() { s.Asks(check2) },
		"Answered() for another key": func() { s.Answered(check2) },
	} {
		if got := testing.AllocsPerRun(1000, call); got != 0 {
			t.Errorf("%s makes %.1f allocations, want none", name, got)
		}
	}
}

var check1, check2 = check("k"), check("another")

// lentForever returns a table with a slice for check1 that nobody can spend.
func lentForever(tb testing.TB) *slices.Table {
	t := slices.New(slices.Options{Now: func() int64 { return 1 }, Send: func(context.Context, *pb.Item) error { return nil }})
	tb.Cleanup(func() { _ = t.Close(context.Background()) })
	t.Granted(check1, 1, &pb.Slice{Id: "s", Amounts: []int64{1 << 52, 1 << 53}, LeaseNanos: 1 << 62}, decision())
	return t
}

func BenchmarkTake(b *testing.B) {
	for name, q := range map[string]*pb.CheckRequest{"slice": check1, "other": check2} {
		b.Run(name, func(b *testing.B) {
			t := lentForever(b)
			var a slices.Answer
			b.ReportAllocs()
			for b.Loop() {
				if t.Take(q, &a, true) != (q == check1) {
					b.Fatal("wrong answer")
				}
			}
		})
	}
}

// BenchmarkReserve is what a reserve and its settle cost in memory.
func BenchmarkReserve(b *testing.B) {
	t := slices.New(slices.Options{Now: func() int64 { return 1 }, Send: func(context.Context, *pb.Item) error { return nil }})
	defer func() { _ = t.Close(context.Background()) }()
	q, u := reserve("k", 10, 0), settle("k", 0)
	t.Granted(q, 1, &pb.Slice{Id: "s", Amounts: []int64{1 << 52, 1 << 53}, LeaseNanos: 1 << 62, Tariff: tariff()}, decision())
	var a slices.Answer
	var s slices.Settlement
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		id := strconv.Itoa(i)
		if !t.Reserve(q, id, &a, false) {
			b.Fatal("not reserved")
		}
		if done, _, err := t.Settle(u, id, &s); !done || err != nil {
			b.Fatal("not settled: ", err)
		}
	}
}

// BenchmarkTakeNothing is what a check costs that has no slice, while no key has one.
func BenchmarkTakeNothing(b *testing.B) {
	t := slices.New(slices.Options{Now: func() int64 { return 1 }})
	var a slices.Answer
	b.ReportAllocs()
	for b.Loop() {
		if t.Take(check1, &a, true) || !t.Asks(check1) {
			b.Fatal("wrong answer")
		}
	}
}
