// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// manyAssignments returns a file that assigns tiers to n keys.
func manyAssignments(n int) []byte {
	var b bytes.Buffer
	b.WriteString(editTiers + "assign:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - { key: tenant-%d/user-%d, tier: %s }\n", i%50_000, i, []string{"free", "paid", "team"}[i%3])
	}
	return b.Bytes()
}

func manyAPIKeys(n int) []byte {
	var b bytes.Buffer
	b.WriteString(editTiers + "api_keys:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - { hash: %q, key: tenant-%d/user-%d, tier: paid }\n", HashAPIKey(strconv.Itoa(i)), i%50_000, i)
	}
	return b.Bytes()
}

func BenchmarkLoad(b *testing.B) {
	for _, bench := range []struct {
		name string
		file func(int) []byte
	}{{"assignments", manyAssignments}, {"API keys", manyAPIKeys}} {
		for _, n := range []int{10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", bench.name, n), func(b *testing.B) {
				src := bench.file(n)
				b.ReportAllocs()
				b.SetBytes(int64(len(src)))
				var p *Policy
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				for b.Loop() {
					var err error
					if p, err = Parse("p.yaml", src, limiter.NewCatalog()); err != nil {
						b.Fatal(err)
					}
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/1e6, "MB-kept")
				runtime.KeepAlive(p)
				runtime.KeepAlive(src)
			})
		}
	}
}

func BenchmarkResolveAssigned(b *testing.B) {
	for _, n := range []int{1, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			p := mustParse(b, string(manyAssignments(n)))
			keys := make([]string, 1<<12)
			for i := range keys {
				j := (i * 7919) % n
				keys[i] = fmt.Sprintf("tenant-%d/user-%d", j%50_000, j)
			}
			var plan limiter.Plan
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Resolve(limiter.Time{}, keys[i&(len(keys)-1)], "", "m", &plan); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

func BenchmarkWith(b *testing.B) {
	p := mustParse(b, string(manyAssignments(1_000_000)))
	for _, bench := range []struct {
		name  string
		delta func(i int) Delta
	}{
		{"assign", func(i int) Delta {
			return Delta{Assign: []Assignment{{Key: fmt.Sprintf("tenant-1/user-%d", i), Tier: "team", At: Place{Source: "rows"}}}}
		}},
		{"override", func(i int) Delta {
			return Delta{Overrides: []Override{{Key: fmt.Sprintf("tenant-1/user-%d", i), Limit: "tokens", Value: "500_000", Until: "2026-12-24", At: Place{Source: "rows"}}}}
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			i := 0
			q := p
			if bench.name == "override" { // keys with the same tier
				q, _ = p.With(Delta{Assign: []Assignment{{Key: "tenant-1/*", Tier: "free"}}})
			}
			b.ReportAllocs()
			for b.Loop() {
				i++
				next, err := q.With(bench.delta(i))
				if err != nil {
					b.Fatal(err)
				}
				if _, total := DiffMost(q, next, 50); total > 1 {
					b.Fatal(total)
				}
			}
		})
	}
}

// TestOneChangeIsCheap: what one change allocates does not grow with the policy.
func TestOneChangeIsCheap(t *testing.T) {
	bytesOf := func(n int) uint64 {
		p := mustParse(t, string(manyAssignments(n)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const changes = 20
		for i := range changes {
			q, err := p.With(Delta{Assign: []Assignment{{Key: fmt.Sprintf("new-%d", i), Tier: "paid"}}})
			if err != nil {
				t.Fatal(err)
			}
			if lines := Diff(p, q); len(lines) != 1 || lines[0] != fmt.Sprintf("assign new-%d added: paid", i) {
				t.Fatalf("Diff = %v", lines)
			}
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / changes
	}
	if got := bytesOf(200_000); got > 64<<10 {
		t.Errorf("one change of 200,000 assignments allocates %d bytes, want at most 64 KiB", got)
	}
}

// TestReadersDuringChanges resolves and walks policies while others are made of them.
func TestReadersDuringChanges(t *testing.T) {
	p := mustParse(t, string(manyAssignments(5_000)))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			q := p
			for i := range 50 {
				next, err := q.With(Delta{
					Assign:    []Assignment{{Key: fmt.Sprintf("tenant-%d/*", i), Tier: "paid"}, {Key: fmt.Sprintf("new/%d", i), Tier: "team"}},
					Overrides: []Override{{Key: fmt.Sprintf("new/%d", i), Limit: "tokens", Value: "9", Until: "2026-12-24"}},
				})
				if err != nil {
					t.Error(err)
					return
				}
				if lines := Diff(q, next); len(lines) != 3 {
					t.Errorf("Diff = %v", lines)
				}
				q = next
			}
		})
		wg.Go(func() {
			var plan limiter.Plan
			for i := range 5_000 {
				key := fmt.Sprintf("tenant-%d/user-%d", i, i)
				if err := p.Resolve(limiter.Time{}, key, "", "", &plan); err != nil || plan.Tier != []string{"free", "paid", "team"}[i%3] {
					t.Errorf("Resolve(%s) = %s, %v", key, plan.Tier, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestLargeFile parses a file that is far beyond what the YAML library may be given, and
// finds its problems with their places.
func TestLargeFile(t *testing.T) {
	const n = 50_000
	src := string(manyAssignments(n))
	p := mustParse(t, src)
	if got := p.assign.count; got != n {
		t.Errorf("%d assignments, want %d", got, n)
	}
	x, err := p.Explain(Call{Key: "tenant-7/user-7", Requests: 1, OutputTokens: -1})
	if err != nil || x.Levels[1].Rules[0].At != "policy.yaml:14:12" {
		t.Errorf("Explain = %+v, %v, want the rule at policy.yaml:14:12", x, err)
	}
	bad := strings.Replace(src, "user-40000, tier: paid", "user-40000, tier: piad", 1)
	_, err = Parse("policy.yaml", []byte(bad), limiter.NewCatalog())
	want := "policy.yaml:40007:43: tier \"piad\" of key \"tenant-40000/user-40000\" is not defined; did you mean \"paid\"?\n      - { key: tenant-40000/user-40000, tier: piad }\n"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("Parse = %v\nwant %s", err, want)
	}
}

// BenchmarkReload measures how long decisions take while a million assignments are loaded,
// and without that: the 99th percentile from the time at which each is due, at 2,000 a
// second.
func BenchmarkReload(b *testing.B) {
	src := manyAssignments(1_000_000)
	catalog := limiter.NewCatalog()
	p, err := Parse("p.yaml", src, catalog)
	if err != nil {
		b.Fatal(err)
	}
	engine := limiter.New(limiter.Options{Catalog: catalog})
	measure := func(stop <-chan struct{}) time.Duration {
		var took []time.Duration
		var plan limiter.Plan
		var d limiter.Decision
		start := time.Now()
		for i := 0; ; i++ {
			select {
			case <-stop:
				slices.Sort(took)
				return took[len(took)*99/100]
			default:
			}
			due := start.Add(time.Duration(i) * 500 * time.Microsecond)
			time.Sleep(time.Until(due))
			now := time.Now()
			at := limiter.Time{Mono: int64(now.Sub(start)) + 1, Wall: now.UnixNano()}
			key := fmt.Sprintf("tenant-%d/user-%d", i%50_000, i%50_000)
			if err := p.Resolve(at, key, "", "", &plan); err != nil {
				b.Error(err)
				return 0
			}
			if err := engine.Check(at, &limiter.Request{Key: key, Plan: &plan, Requests: 1}, &d); err != nil {
				b.Error(err)
				return 0
			}
			took = append(took, time.Since(due))
		}
	}
	during := func(do func()) time.Duration {
		stop := make(chan struct{})
		result := make(chan time.Duration)
		go func() { result <- measure(stop) }()
		do()
		close(stop)
		return <-result
	}
	var quiet, loading time.Duration
	for b.Loop() {
		quiet = during(func() { time.Sleep(2 * time.Second) })
		loading = during(func() {
			if _, err := Parse("p.yaml", src, catalog); err != nil {
				b.Error(err)
			}
		})
	}
	b.ReportMetric(float64(quiet.Microseconds()), "µs-p99-quiet")
	b.ReportMetric(float64(loading.Microseconds()), "µs-p99-loading")
}
