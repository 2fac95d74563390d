// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/internal/cputime"
)

// BenchmarkFiveMillion audits a run of 5 million events under four limits: over
// 12,000 keys, and all on one. A third is denied.
func BenchmarkFiveMillion(b *testing.B) {
	const n = 5_000_000
	for _, c := range []struct {
		name string
		keys int
		llm  bool
	}{{"keys=12k", 12_000, false}, {"keys=1", 1, false}, {"keys=12k,llm", 12_000, true}} {
		b.Run(c.name, func(b *testing.B) {
			share := int64(n / c.keys)
			limits := []audit.Limit{
				{Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: share / 2, Window: 25 * time.Second, Burst: share / 4},
				{Dimension: audit.Tokens, Algorithm: audit.SlidingWindow, Amount: 150 * share, Window: 10 * time.Second},
				{Dimension: audit.Spend, Algorithm: audit.FixedWindow, Amount: 1000 * share, Window: 24 * time.Hour},
				{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 1000},
			}
			keys := make([]string, c.keys)
			for i := range keys {
				keys[i] = fmt.Sprintf("root%d/user", i)
			}
			var peak uint64
			var took, used time.Duration
			for b.Loop() {
				a, err := audit.New(audit.Options{Limits: limits, Prices: map[string]audit.Price{"*": {Input: 1e6, Output: 3e6}}})
				if err != nil {
					b.Fatal(err)
				}
				begin := time.Now()
				var call *bench.Call
				for i := range n {
					sent := time.Duration(i) * 10 * time.Microsecond
					e := bench.Event{Op: bench.OpCheck, Sent: sent, Done: sent + time.Duration(i*7919%1000)*time.Microsecond, Answer: allowed}
					if c.llm && i%2 == 1 {
						e.Op, e.Answer = bench.OpSettle, bench.Answer{}
						e.Sent += 2 * time.Millisecond
						e.Done += 2 * time.Millisecond
						e.Usage = bench.Usage{ID: call.ID, Key: call.Key, InputTokens: 100, OutputTokens: 20, Final: true}
					} else {
						call = &bench.Call{Key: keys[i%c.keys], ID: fmt.Sprintf("%016x", i), LLM: c.llm, InputTokens: 100, OutputTokens: 20, MaxOutputTokens: 60}
						if c.llm {
							e.Op = bench.OpReserve
						} else if i/c.keys%3 == 2 {
							e.Answer = denied
						}
					}
					e.Call = call
					a.Add(&e)
				}
				added := time.Now()
				cpu := cputime.Used()
				r := a.Report()
				took += time.Since(added)
				used += cputime.Used() - cpu
				b.ReportMetric(float64(added.Sub(begin))/n, "ns/add")
				if r.Events != n {
					b.Fatalf("%d events", r.Events)
				}
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.Sys-m.HeapReleased)
				runtime.KeepAlive(a)
			}
			b.ReportMetric(took.Seconds()/float64(b.N), "s/report")
			if used > 0 {
				b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/report")
			}
			b.ReportMetric(float64(peak)/1e6, "MB-peak")
		})
	}
}
