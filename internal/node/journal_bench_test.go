// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/cputime"
	"github.com/bucketring/bucketring/internal/journal"
	"github.com/bucketring/bucketring/limiter"
)

const benchKeys = 1_000_000

// benchEngine is an engine with its journal and the clocks of the machine.
type benchEngine struct {
	engine  *limiter.Engine
	journal *journal.Journal
	now     func() limiter.Time
	plan    limiter.Plan
}

func bootBench(b *testing.B, dir string, o journal.Options) *benchEngine {
	b.Helper()
	catalog := limiter.NewCatalog()
	set, err := catalog.LimitSet([]limiter.Limit{
		{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 600, Window: time.Minute},
		{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 60_000, Window: time.Hour},
		{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1_000_000, Calendar: limiter.Day},
		{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 10},
	})
	if err != nil {
		b.Fatal(err)
	}
	e := &benchEngine{now: clock(), engine: limiter.New(limiter.Options{Catalog: catalog})}
	e.plan = limiter.Plan{Tier: "t", Count: 1, Rates: limiter.Rates{Priced: true, InputPrice: 1_000_000, OutputPrice: 1_000_000, Weights: limiter.DefaultWeights}}
	e.plan.Levels[0] = limiter.Level{End: len(benchKey(0)), Tier: "t", Limits: set}
	o.Dir = dir
	if e.journal, err = openJournal(o, newChangeLists(e.engine), e.now); err != nil {
		b.Fatal(err)
	}
	openPartitions(e.journal, e.engine)
	return e
}

func benchKey(i int) string { return fmt.Sprintf("tenant-%08d", i) }

func (e *benchEngine) check(b *testing.B, i int) {
	var d limiter.Decision
	if err := e.engine.Check(e.now(), &limiter.Request{Key: benchKey(i), Plan: &e.plan, InputTokens: 100}, &d); err != nil || d.Outcome != limiter.Allowed {
		b.Fatal(d.Outcome, err)
	}
}

func (e *benchEngine) close(b *testing.B) {
	b.Helper()
	if err := e.journal.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkStart reads a million keys of four limits.
func BenchmarkStart(b *testing.B) {
	for _, in := range []string{"snapshot", "journal"} {
		b.Run(in, func(b *testing.B) {
			dir := b.TempDir()
			e := bootBench(b, dir, journal.Options{})
			if in == "journal" {
				if err := e.journal.Flush(); err != nil { // writes an empty snapshot
					b.Fatal(err)
				}
			}
			for i := range benchKeys {
				e.check(b, i)
			}
			if err := e.journal.Flush(); err != nil {
				b.Fatal(err)
			}
			e.close(b)
			used := time.Duration(0)
			for b.Loop() {
				before := cputime.Used()
				e := bootBench(b, dir, journal.Options{})
				used += cputime.Used() - before
				b.StopTimer()
				if n := e.engine.Stats().Keys; n != benchKeys {
					b.Fatalf("%d keys were restored, want %d", n, benchKeys)
				}
				s := e.journal.Status()
				b.ReportMetric(float64(s.SnapshotBytes)/1e6, "snapshot-MB")
				b.ReportMetric(float64(s.JournalBytes)/1e6, "journal-MB")
				e.close(b)
				b.StartTimer()
			}
			b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

// BenchmarkCheckWhileJournaling reports how long checks of a million keys take while nothing
// else runs, while the journal is written, and while snapshots are written all the time.
// The maximum has what the scheduler adds.
func BenchmarkCheckWhileJournaling(b *testing.B) {
	for _, test := range []struct {
		name string
		run  bool
		o    journal.Options
	}{
		{"idle", false, journal.Options{}},
		{"journal", true, journal.Options{MaxSize: 1 << 40}},
		{"snapshots", true, journal.Options{MaxSize: 1}},
	} {
		b.Run(test.name, func(b *testing.B) {
			e := bootBench(b, b.TempDir(), test.o)
			for i := range benchKeys {
				e.check(b, i)
			}
			ctx, stop := context.WithCancel(b.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				if test.run {
					_ = e.journal.Run(ctx) // returns nil
				}
			}()
			took := make([]time.Duration, 0, 1<<22)
			i := 0
			for b.Loop() {
				key := benchKey(i * 7919 % benchKeys)
				r := &limiter.Request{Key: key, Plan: &e.plan, InputTokens: 1}
				var d limiter.Decision
				began := time.Now()
				if err := e.engine.Check(e.now(), r, &d); err != nil {
					b.Fatal(err)
				}
				if took = append(took, time.Since(began)); len(took) == cap(took) {
					took = took[:0]
				}
				i++
			}
			stop()
			<-done
			slices.Sort(took)
			for _, p := range []float64{99, 99.9, 99.99, 99.999} {
				b.ReportMetric(float64(took[int(float64(len(took)-1)*p/100)].Nanoseconds())/1e3, fmt.Sprintf("p%g-us", p))
			}
			b.ReportMetric(float64(took[len(took)-1].Nanoseconds())/1e3, "max-us")
			b.ReportMetric(float64(e.journal.Status().Generation), "generations")
			e.close(b)
		})
	}
}

// BenchmarkCollect reports how long one partition with 244 changed keys is locked when
// its changes are collected. The maximum has what the scheduler adds.
func BenchmarkCollect(b *testing.B) {
	e := bootBench(b, b.TempDir(), journal.Options{})
	defer e.close(b)
	var w limiter.StateWriter
	var took []time.Duration
	after := make([]uint64, limiter.Partitions)
	for b.Loop() {
		b.StopTimer()
		for i := range benchKeys {
			e.check(b, i)
		}
		b.StartTimer()
		for p := range limiter.Partitions {
			if p%64 == 0 {
				w.Reset()
			}
			began := time.Now()
			through, ok := e.engine.AppendChanges(e.now(), p, after[p], &w)
			took = append(took, time.Since(began))
			if !ok {
				b.Fatal("changes are not listed")
			}
			after[p] = through
			e.engine.ForgetChanges(p, through)
		}
	}
	slices.Sort(took)
	for _, p := range []float64{50, 99, 99.9} {
		b.ReportMetric(float64(took[int(float64(len(took)-1)*p/100)].Nanoseconds())/1e3, fmt.Sprintf("p%g-us", p))
	}
	b.ReportMetric(float64(took[len(took)-1].Nanoseconds())/1e3, "max-us")
}
