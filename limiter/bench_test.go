// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/sethvargo/go-limiter/memorystore"
	"golang.org/x/time/rate"

	"github.com/bucketring/bucketring/limiter"
)

// The engine decides four limits per check and reports them; the peers decide
// one. All rows make their key the same way, and the nop row is that alone.
// Amounts are so large that nothing is denied.

const benchKeys = 1 << 20

// benchKey writes key i into buf and returns it as a string that is valid until the next
// call. Like the keys of a server, which were just received, it is in the CPU's cache.
func benchKey(buf *[13]byte, i uint32) string {
	const digits = "0123456789abcdef"
	copy(buf[:], "user-")
	for p := 12; p >= 5; p-- {
		buf[p] = digits[i&15]
		i >>= 4
	}
	return unsafe.String(&buf[0], len(buf))
}

// walk visits keys in an order that defeats hardware prefetching.
type walk struct{ x, mask uint32 }

func (w *walk) next() uint32 {
	w.x = w.x*1664525 + 1013904223
	return (w.x >> 7) & w.mask
}

var benchStart = limiter.Time{Mono: 1, Wall: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixNano()}

// benchPlan returns a plan of four limits at each level.
func benchPlan(tb testing.TB, e *limiter.Engine, ends ...int) *limiter.Plan {
	tb.Helper()
	set, err := e.Catalog().LimitSet([]limiter.Limit{
		{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1 << 50, Window: time.Minute},
		{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 1 << 50, Window: time.Minute},
		{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Calendar: limiter.Day, Amount: 1 << 52},
		{Name: "input", Dimension: limiter.InputTokens, Algorithm: limiter.TokenBucket, Amount: 1 << 50, Window: time.Hour},
	})
	if err != nil {
		tb.Fatal(err)
	}
	p := &limiter.Plan{Count: len(ends), Tier: "standard", Rates: limiter.Rates{Priced: true, InputPrice: 600_000, CachedInputPrice: 150_000, OutputPrice: 800_000, Weights: limiter.DefaultWeights}}
	for i, end := range ends {
		p.Levels[i] = limiter.Level{End: end, Tier: "standard", Limits: set}
	}
	return p
}

// checker returns a function that checks a key.
func checker(tb testing.TB, e *limiter.Engine, ends ...int) func(key string) {
	r := &limiter.Request{Plan: benchPlan(tb, e, ends...), Requests: 1, InputTokens: 900, OutputTokens: 100}
	now, d := benchStart, limiter.Decision{}
	return func(key string) {
		now.Mono += 200
		now.Wall += 200
		r.Key = key
		if err := e.Check(now, r, &d); err != nil || d.Outcome != limiter.Allowed {
			tb.Fatalf("Check(%s) = %v, %v, want allowed", r.Key, d.Outcome, err)
		}
	}
}

// A row is a limiter to compare. It makes the function that each core calls.
type row func(testing.TB) func() func(key string)

// rows are the engine and other libraries.
var rows = []struct {
	name string
	row
}{
	{"nop", func(testing.TB) func() func(string) {
		return func() func(string) {
			var sink int
			return func(key string) { sink += len(key) }
		}
	}},
	{"bucketring", func(tb testing.TB) func() func(string) {
		e := limiter.New(limiter.Options{})
		return func() func(string) { return checker(tb, e, 13) }
	}},
	{"xtime", func(testing.TB) func() func(string) {
		var m sync.Map
		return func() func(string) {
			return func(key string) {
				v, ok := m.Load(key)
				if !ok {
					v, _ = m.LoadOrStore(strings.Clone(key), rate.NewLimiter(1<<40, 1<<40))
				}
				v.(*rate.Limiter).Allow()
			}
		}
	}},
	{"sethvargo", func(tb testing.TB) func() func(string) {
		s, err := memorystore.New(&memorystore.Config{Tokens: 1 << 50, Interval: time.Minute})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = s.Close(context.Background()) })
		seen := map[string]bool{}
		return func() func(string) {
			return func(key string) {
				if len(seen) < benchKeys && !seen[key] { // the store keeps the string
					key = strings.Clone(key)
					seen[key] = true
				}
				_, _, _, _, _ = s.Take(context.Background(), key)
			}
		}
	}},
}

// BenchmarkCheck compares one check, hot (one key) and uniform over 2^20 keys,
// on one core and on two that use different keys.
func BenchmarkCheck(b *testing.B) {
	for _, row := range rows {
		for _, keys := range []uint32{1, benchKeys} {
			b.Run(fmt.Sprintf("%s/keys=%d", row.name, keys), func(b *testing.B) {
				perCore := row.row(b)
				var buf [13]byte
				fill := perCore()
				for i := range max(keys, 3) {
					fill(benchKey(&buf, i))
				}
				b.Run("cores=1", func(b *testing.B) {
					w, take := walk{mask: keys - 1}, perCore()
					b.ReportAllocs()
					for b.Loop() {
						take(benchKey(&buf, w.next()))
					}
				})
				b.Run("cores=2", func(b *testing.B) {
					var who atomic.Uint32
					b.RunParallel(func(pb *testing.PB) {
						n := who.Add(1)
						w, take := walk{x: n, mask: keys - 1}, perCore()
						var buf [13]byte
						for pb.Next() {
							i := w.next()
							if keys == 1 {
								i = n // each core has its own hot key
							}
							take(benchKey(&buf, i))
						}
					})
				})
			})
		}
	}
}

// BenchmarkLevels compares one level of four limits with two.
func BenchmarkLevels(b *testing.B) {
	names := make([]string, 1024)
	for i := range names {
		names[i] = fmt.Sprintf("acme%04d/alice", i)
	}
	for levels, ends := range map[int][]int{1: {14}, 2: {8, 14}} {
		b.Run(fmt.Sprint(levels), func(b *testing.B) {
			take := checker(b, limiter.New(limiter.Options{}), ends...)
			w := walk{mask: 1023}
			b.ReportAllocs()
			for b.Loop() {
				take(names[w.next()])
			}
		})
	}
}

// BenchmarkReserveSettle is a reserve and its final settle, beside a check with
// an id and one without. Those named hot have one key and so few ids that all their
// memory stays in the CPU's first cache: the difference is the latency of memory.
func BenchmarkReserveSettle(b *testing.B) {
	names, ids := make([]string, 1024), make([]string, 1<<17)
	for i := range ids {
		ids[i] = fmt.Sprintf("%032x", i)
		names[i%1024] = fmt.Sprintf("user-%08x", i%1024)
	}
	for _, size := range []struct {
		prefix     string
		keys       uint32
		ids, known int // used in turns, and remembered
		ledger     limiter.Ledger
	}{
		{"", 1024, 1 << 17, 1 << 16, nil},
		{"hot_", 1, 64, 24, nil},
		{"ledger_", 1024, 1 << 17, 1 << 16, noBooks{}},
	} {
		ids := ids[:size.ids]
		setup := func(b *testing.B) (*limiter.Engine, *limiter.Request, limiter.Time, walk) {
			e := limiter.New(limiter.Options{MaxIDs: size.known, Ledger: size.ledger})
			r := &limiter.Request{Plan: benchPlan(b, e, len(names[0])), Requests: 1, InputTokens: 900, OutputTokens: 100}
			return e, r, benchStart, walk{mask: size.keys - 1}
		}
		b.Run(size.prefix+"check", func(b *testing.B) {
			e, r, now, w := setup(b)
			d := limiter.Decision{}
			b.ReportAllocs()
			for b.Loop() {
				now.Mono += 1000
				r.Key = names[w.next()]
				_ = e.Check(now, r, &d)
			}
		})
		b.Run(size.prefix+"check_with_id", func(b *testing.B) {
			e, r, now, w := setup(b)
			d, n := limiter.Decision{}, 0
			b.ReportAllocs()
			for b.Loop() {
				n++
				now.Mono += 1000
				r.Key, r.ID = names[w.next()], ids[n%len(ids)]
				_ = e.Check(now, r, &d)
				if d.Replayed {
					b.Fatal("an id that should be forgotten is known")
				}
			}
		})
		for _, sent := range []bool{false, true} { // with an attempt, as over a stream
			name := "reserve_settle"
			if sent {
				name = "reserve_sent_settle"
			}
			b.Run(size.prefix+name, func(b *testing.B) {
				e, r, now, w := setup(b)
				d, n := limiter.Decision{}, 0
				u := &limiter.Usage{InputTokens: 900, OutputTokens: 60, Final: true}
				b.ReportAllocs()
				for b.Loop() {
					n++
					now.Mono += 1000
					r.Key, r.ID = names[w.next()], ids[n%len(ids)]
					u.Key, u.ID = r.Key, r.ID
					if sent {
						r.Attempt = uint64(n)
					}
					if err := e.Reserve(now, r, &d); err != nil {
						b.Fatal(err)
					}
					if err := e.Settle(now, u, &d); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkBatch compares 256 single checks with one batch, over 2^20 keys, without ids and
// with ids that are remembered and push older ones out.
func BenchmarkBatch(b *testing.B) {
	const size, known = 256, 1 << 19
	ids := make([]string, 4*known)
	for i := range ids {
		ids[i] = fmt.Sprintf("%016x", i)
	}
	bufs := make([][13]byte, size)
	for _, withIDs := range []bool{false, true} {
		e := limiter.New(limiter.Options{MaxIDs: known})
		fill := checker(b, e, 13)
		for i := range uint32(benchKeys) {
			fill(benchKey(&bufs[0], i))
		}
		plan := benchPlan(b, e, 13)
		rs, ds, errs := make([]*limiter.Request, size), make([]*limiter.Decision, size), make([]error, size)
		for i := range rs {
			rs[i], ds[i] = &limiter.Request{Plan: plan, Requests: 1, InputTokens: 900, OutputTokens: 100}, &limiter.Decision{}
		}
		n, w, now := 0, walk{mask: benchKeys - 1}, benchStart
		prepare := func(i int) {
			rs[i].Key = benchKey(&bufs[i], w.next())
			if withIDs {
				n++
				rs[i].ID = ids[n%len(ids)]
			}
		}
		for range known { // until the memory for ids is full
			prepare(0)
			errs[0] = e.Check(now, rs[0], ds[0])
		}
		for _, row := range []string{"single", "batch"} {
			name := row
			if withIDs {
				name += "_with_ids"
			}
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					now.Mono += 50_000
					for i := range rs {
						prepare(i)
						if row == "single" {
							errs[i] = e.Check(now, rs[i], ds[i])
						}
					}
					if row == "batch" {
						e.CheckBatch(now, rs, ds, errs)
					}
					if errs[0] != nil || ds[0].Replayed {
						b.Fatalf("%v, replayed %t", errs[0], ds[0].Replayed)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/check")
			})
		}
	}
}

// BenchmarkMemory fills an engine and reports what a key costs: resident bytes,
// and the CPU time of one garbage collection.
func BenchmarkMemory(b *testing.B) {
	for _, keys := range []int{1_000_000, 10_000_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			for b.Loop() {
				before := resident(b)
				e := limiter.New(limiter.Options{MaxKeys: keys + 4096*16})
				r := &limiter.Request{Plan: benchPlan(b, e, 13), Requests: 1, InputTokens: 900, OutputTokens: 100}
				var d limiter.Decision
				var buf [13]byte
				for i := range keys {
					r.Key = benchKey(&buf, uint32(i))
					if err := e.Check(benchStart, r, &d); err != nil || d.Outcome != limiter.Allowed {
						b.Fatalf("Check(%s) = %v, %v", r.Key, d.Outcome, err)
					}
				}
				runtime.GC()
				b.ReportMetric(float64(resident(b)-before)/float64(keys), "B/key")
				spent := gcSeconds()
				runtime.GC()
				b.ReportMetric((gcSeconds()-spent)*1e3, "GC-ms")
				runtime.KeepAlive(e)
			}
		})
	}
}

// BenchmarkSweep measures a step of the sweep over 2^20 keys that must stay, and reports
// the slowest one in a thousand.
func BenchmarkSweep(b *testing.B) {
	e := limiter.New(limiter.Options{})
	fill := checker(b, e, 13)
	var buf [13]byte
	for i := range uint32(benchKeys) {
		fill(benchKey(&buf, i))
	}
	now := benchStart.Add(time.Minute)
	steps := make([]time.Duration, 0, 1<<20)
	for b.Loop() {
		began := time.Now()
		e.Sweep(now, 64)
		if len(steps) < cap(steps) {
			steps = append(steps, time.Since(began))
		}
	}
	slices.Sort(steps)
	b.ReportMetric(float64(steps[len(steps)*999/1000].Nanoseconds())/1e3, "p99.9-us")
}

// BenchmarkOneRoot creates 2^20 keys under one root, which share a partition, and reports
// the slowest check in a thousand, which grows a table.
func BenchmarkOneRoot(b *testing.B) {
	for b.Loop() {
		e := limiter.New(limiter.Options{MaxKeysPerRoot: benchKeys})
		r := &limiter.Request{Plan: benchPlan(b, e, len("acme/user-00000000")), Requests: 1, InputTokens: 900, OutputTokens: 100}
		var d limiter.Decision
		var buf [13]byte
		durations := make([]time.Duration, benchKeys)
		for i := range durations {
			r.Key = "acme/" + benchKey(&buf, uint32(i))
			began := time.Now()
			if err := e.Check(benchStart, r, &d); err != nil || d.Outcome != limiter.Allowed {
				b.Fatalf("Check(%s) = %v, %v", r.Key, d.Outcome, err)
			}
			durations[i] = time.Since(began)
		}
		slices.Sort(durations)
		b.ReportMetric(float64(durations[len(durations)*999/1000].Nanoseconds())/1e3, "p99.9-us")
	}
}
