// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/cputime"
	"github.com/bucketring/bucketring/internal/waittest"
)

// benchCluster is a cluster of three members on loopback, without proxies.
func benchCluster(tb testing.TB, partitions int) *cluster {
	c := &cluster{t: tb, partitions: partitions, protocol: continuity.Defaults(partitions), direct: true}
	c.begin("a", "b", "c")
	c.settle()
	return c
}

// BenchmarkIdle measures the processor time of three idle members with 4,096 partitions,
// for each. An operation is a heartbeat of 100 ms.
func BenchmarkIdle(b *testing.B) {
	c := benchCluster(b, 4096)
	heartbeat := time.NewTicker(c.protocol.Heartbeat)
	defer heartbeat.Stop()
	began := cputime.Used()
	b.ReportAllocs()
	for b.Loop() {
		<-heartbeat.C
	}
	used := cputime.Used() - began
	b.ReportMetric(float64(used.Milliseconds())/b.Elapsed().Seconds()/float64(len(c.members)), "cpu-ms/s")
}

// BenchmarkWait measures the time from a change until the heir has it, for one caller, and
// for some at once. Every change is urgent. The fake engine and the heir are part of it.
func BenchmarkWait(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c := benchCluster(b, 64)
			ctx := waittest.Context(b, time.Hour)
			owner := c.members[c.deciders(0)[0]]
			var mine []int
			for p := range c.partitions {
				if owner.Decides(p, owner.Clock()) {
					mine = append(mine, p)
				}
			}
			var n atomic.Int64
			b.SetParallelism((callers + 1) / 2) // of two processors
			wait := func(i int64) {
				p := mine[int(i)%len(mine)]
				// The same id again is as good as a change, and the maps of the engine stay small.
				e := &owner.engine.parts[p]
				e.Lock()
				e.seq++
				e.charges["id"] = fakeCharge{1, e.seq}
				seq := e.seq
				e.Unlock()
				owner.Changed(p, true)
				if err := owner.waitOwn(ctx, p, seq); err != nil {
					b.Error(err)
				}
			}
			b.ReportAllocs()
			if callers == 1 {
				for i := int64(0); b.Loop(); i++ {
					wait(i)
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					wait(n.Add(1))
				}
			})
		})
	}
}

// BenchmarkMoves measures a cluster of 4,096 partitions under load: until a new cluster of
// three has an owner and an heir for each, until a fourth member has joined and all moves are
// done, for how long a move stops a partition, and until all partitions have an owner
// again after a member was killed.
func BenchmarkMoves(b *testing.B) {
	const partitions = 4096
	for b.Loop() {
		moves := &pauses{sealed: map[int]time.Time{}}
		c := &cluster{t: b, partitions: partitions, protocol: continuity.Defaults(partitions), direct: true, changed: moves.changed}
		began := time.Now()
		c.begin("a", "b", "c")
		c.settle()
		b.ReportMetric(time.Since(began).Seconds(), "bootstrap-s")
		w := c.call(2)
		w.more(100)
		began = time.Now()
		c.start("d")
		c.show()
		w.see()
		c.settle()
		b.ReportMetric(time.Since(began).Seconds(), "join-s")
		b.ReportMetric(float64(len(moves.took)), "moves")
		b.ReportMetric(float64(moves.quantile(0.5).Microseconds())/1000, "pause-p50-ms")
		b.ReportMetric(float64(moves.quantile(0.99).Microseconds())/1000, "pause-p99-ms")
		began = time.Now()
		c.remove("b")
		w.see()
		waittest.Until(b, "an owner for all partitions", c.allDecided)
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "takeover-ms")
		c.show()
		w.check()
		for _, m := range c.members {
			m.kill()
		}
	}
}

// BenchmarkHotPath measures what a decision asks.
func BenchmarkHotPath(b *testing.B) {
	c := benchCluster(b, 64)
	m := slices.Collect(maps.Values(c.members))[0]
	b.Run("Clock", func(b *testing.B) {
		for b.Loop() {
			m.Clock()
		}
	})
	b.Run("Decides", func(b *testing.B) {
		now := m.Clock()
		for b.Loop() {
			m.Decides(1, now)
		}
	})
	b.Run("Place", func(b *testing.B) {
		for b.Loop() {
			m.Place(1)
		}
	})
	b.Run("Changed", func(b *testing.B) {
		for b.Loop() {
			m.Changed(1, false)
		}
	})
}

// TestHotPathAllocatesNothing also covers a wait for what the heir already has.
func TestHotPathAllocatesNothing(t *testing.T) {
	c := benchCluster(t, 16)
	owner := c.members[c.deciders(3)[0]]
	ctx := waittest.Context(t, testWait)
	if err := owner.charge(ctx, 3, "id"); err != nil {
		t.Fatal(err)
	}
	seq := owner.engine.Seq(3)
	if n := testing.AllocsPerRun(100, func() {
		now := owner.Clock()
		if !owner.Decides(3, now) || owner.Place(3).Owner != owner.self || !owner.Waits() {
			t.Error("the owner does not decide")
		}
		owner.Lags(3, now)
		if err := owner.waitOwn(ctx, 3, seq); err != nil {
			t.Error(err)
		}
	}); n >= 1 { // the rest of the process allocates now and then
		t.Errorf("%v allocations, want 0", n)
	}
}
