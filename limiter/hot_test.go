// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// hotNode returns a node that counts hot keys, and a function that checks a key.
func hotNode(t testing.TB) (*limiter.Engine, func(now limiter.Time, key string, asker uint32)) {
	t.Helper()
	e := limiter.New(limiter.Options{HotKeys: true})
	p := benchPlan(t, e, 0)
	var d limiter.Decision
	return e, func(now limiter.Time, key string, asker uint32) {
		p.Levels[0].End = len(key)
		if err := e.Check(now, &limiter.Request{Key: key, Tier: "named", Plan: p, Requests: 1, Asker: asker}, &d); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHotKeys(t *testing.T) {
	e, check := hotNode(t)
	now := noon
	for i := range 3000 { // 100 per second, in many partitions
		check(now, "cold-"+strconv.Itoa(i), 0)
		if i%2 == 0 {
			check(now, "hot/a", uint32(i%4/2))
		}
		if i%4 == 0 {
			check(now, "hot/b", 7)
		}
		now = now.Add(10 * time.Millisecond)
	}
	hot := e.HotKeys(now, 2)
	if len(hot.Keys) != 2 || hot.Weight != 1 || math.Abs(hot.Rate-175) > 2 {
		t.Fatalf("HotKeys() = %+v, want 2 keys of 175 calls per second, all of them counted", hot)
	}
	for i, want := range []struct {
		key    string
		rate   float64
		askers int
	}{{"hot/a", 50, 2}, {"hot/b", 25, 1}} {
		k := hot.Keys[i]
		if k.Key != want.key || math.Abs(k.Rate-want.rate) > 1 || k.Error > 1 || len(k.Askers) != want.askers || k.Tier != "named" {
			t.Errorf("key %d = %+v, want %s with %v calls per second by %d askers", i, k, want.key, want.rate, want.askers)
		}
	}
	e.Close(limiter.PartitionOf("hot"))
	if hot := e.HotKeys(now, 1); hot.Keys[0].Key == "hot/a" || math.Abs(hot.Rate-100) > 2 {
		t.Errorf("HotKeys() = %+v, want none of a partition that is closed", hot)
	}
	if hot := e.HotKeys(now.Add(time.Minute), 10); len(hot.Keys) != 0 || hot.Rate != 0 {
		t.Errorf("HotKeys() = %+v a minute later, want none", hot)
	}
}

// TestHotKeysOfDenials: denied calls are hits too, forced ones are not.
func TestHotKeysOfDenials(t *testing.T) {
	n := newNode(t, limiter.Options{HotKeys: true})
	p := n.plan("k", limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1, Window: time.Hour})
	for range 10 {
		n.check(noon, &limiter.Request{Key: "k", Plan: p, Requests: 1})
		n.check(noon, &limiter.Request{Key: "k", Plan: p, Requests: 1, Force: true})
	}
	if hot := n.HotKeys(noon, 10); len(hot.Keys) != 1 || hot.Keys[0].Rate != 10 {
		t.Errorf("HotKeys() = %+v, want k with 10 calls", hot)
	}
}

func TestHotKeysOff(t *testing.T) {
	n := newNode(t, limiter.Options{})
	n.check(noon, &limiter.Request{Key: "k", Plan: n.plan("k", tokenLimits()...), Requests: 1})
	if hot := n.HotKeys(noon, 10); len(hot.Keys) != 0 || hot.Rate != 0 {
		t.Errorf("HotKeys() = %+v, want none", hot)
	}
}

// TestHotKeysSample: of many calls a sample is counted, which gives the same rates, and
// when there are fewer again, all are counted.
func TestHotKeysSample(t *testing.T) {
	e, check := hotNode(t)
	r := rand.New(rand.NewPCG(1, 2))
	now := noon
	calls := func(rate int, d time.Duration) {
		for range int(int64(rate) * int64(d) / int64(time.Second)) {
			switch x := r.IntN(100); {
			case x < 20:
				check(now, "hot/a", 0)
			case x < 25:
				check(now, "hot/b", 0)
			default:
				check(now, "cold/"+strconv.Itoa(r.IntN(1000)), 0)
			}
			now = now.Add(time.Second / time.Duration(rate))
			e.Sweep(now, 1)
		}
	}
	calls(300_000, 5*time.Second)
	hot := e.HotKeys(now, 2)
	if hot.Weight != 64 || math.Abs(hot.Rate-300_000) > 25_000 {
		t.Errorf("HotKeys() = %.0f calls per second by 1 of %d, want 300,000 by 1 of 64", hot.Rate, hot.Weight)
	}
	for i, want := range []float64{60_000, 15_000} { // 938 and 234 samples per second: 6 standard errors
		if k := hot.Keys[i]; math.Abs(k.Rate-want) > 6*want/math.Sqrt(want/64) {
			t.Errorf("key %d = %+v, want %.0f calls per second", i, k, want)
		}
	}
	calls(1000, 16*time.Second)
	hot = e.HotKeys(now, 2)
	if hot.Weight != 1 || math.Abs(hot.Keys[0].Rate-200) > 60 {
		t.Errorf("HotKeys() = %+v, want all of 200 calls per second", hot)
	}
}

// BenchmarkHotKeys compares checks of an engine that counts hot keys with one that does
// not. The keys of a root have their state in one partition.
func BenchmarkHotKeys(b *testing.B) {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 1)), 1.1, 1, benchKeys-1)
	zipf := make([]uint32, 1<<20)
	for i := range zipf {
		zipf[i] = uint32(z.Uint64())
	}
	w := walk{mask: benchKeys - 1}
	for _, keys := range []struct {
		name string
		next func(i int) uint32
	}{
		{"one", func(int) uint32 { return 0 }},
		{"zipf", func(i int) uint32 { return zipf[i&(len(zipf)-1)] }},
		{"uniform", func(int) uint32 { return w.next() }},
	} {
		for _, on := range []bool{false, true} {
			b.Run(keys.name+"/counted="+strconv.FormatBool(on), func(b *testing.B) {
				e := limiter.New(limiter.Options{HotKeys: on})
				r := &limiter.Request{Plan: benchPlan(b, e, 13), Requests: 1}
				now, d := benchStart, limiter.Decision{}
				var buf [13]byte
				check := func(key string) {
					r.Key = key
					if err := e.Check(now, r, &d); err != nil || d.Outcome != limiter.Allowed {
						b.Fatalf("Check() = %v, %v, want allowed", d.Outcome, err)
					}
					now = now.Add(200)
				}
				for i := range uint32(benchKeys) { // in more than a second, so that a sample is counted
					check(benchKey(&buf, i))
					now = now.Add(time.Microsecond)
					e.Sweep(now, 0)
				}
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					check(benchKey(&buf, keys.next(i)))
					if i++; i&(1<<12-1) == 0 {
						e.Sweep(now, 0)
					}
				}
			})
		}
	}
}
