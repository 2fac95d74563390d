// SPDX-License-Identifier: Apache-2.0

package hotkeys_test

import (
	"fmt"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter/hotkeys"
)

const second = int64(time.Second)

// rounding is by how much of a hit rounding may lower a count.
const rounding = 1.0 / 8

// exact counts every key, with the same decay as a sketch.
type exact struct {
	epoch  int64
	counts map[string]float64
	total  float64
}

func (e *exact) add(now int64, key string) {
	e.until(now)
	e.counts[key]++
	e.total++
}

func (e *exact) until(now int64) {
	if n := now/second - e.epoch; n > 0 {
		factor := math.Pow(0.5, float64(n))
		for key := range e.counts {
			e.counts[key] *= factor
		}
		e.total *= factor
		e.epoch += n
	}
}

var seed = maphash.MakeSeed()

// pair is a sketch and what it approximates.
type pair struct {
	hotkeys.Sketch
	exact
}

func newPair() *pair { return &pair{exact: exact{counts: map[string]float64{}}} }

func (p *pair) hit(now int64, key string) {
	p.Add(now, &hotkeys.Hit{Hash: maphash.String(seed, key), Key: key, Asker: 1, Weight: 1})
	p.add(now, key)
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// check compares the bounds of the sketch with the exact counts.
func (p *pair) check(t failer, now int64) {
	t.Helper()
	p.until(now)
	perSecond := 1 / (1 + float64(now%second)/float64(second))
	margin := rounding * perSecond
	listed := map[string]bool{}
	for _, k := range p.Append(nil, now, 0) {
		if listed[k.Key] {
			t.Fatalf("key %s is listed twice", k.Key)
		}
		listed[k.Key] = true
		rate := p.counts[k.Key] * perSecond
		if rate < k.Rate-1e-9 || rate > k.Rate+k.Error+margin {
			t.Fatalf("key %s has the rate %.3f, want from %.3f to %.3f", k.Key, rate, k.Rate, k.Rate+k.Error)
		}
		if len(k.Askers) > 1 {
			t.Fatalf("key %s has askers %v, want one", k.Key, k.Askers)
		}
		for _, a := range k.Askers {
			if a.Rate > rate+1e-9 {
				t.Fatalf("asker of %s has the rate %.3f, want at most that of the key, %.3f", k.Key, a.Rate, rate)
			}
		}
	}
	missing := p.Missing(now)
	for key, count := range p.counts {
		if rate := count * perSecond; !listed[key] && rate > missing+margin {
			t.Fatalf("key %s with the rate %.3f is missing, want at most %.3f", key, rate, missing)
		}
	}
	if rate := p.total * perSecond; math.Abs(p.Rate(now)-rate) > margin {
		t.Fatalf("Rate() = %.3f, want %.3f", p.Rate(now), rate)
	}
}

// streams choose the key of hit i.
var streams = map[string]func(r *rand.Rand) func(i int) string{
	"zipf": func(r *rand.Rand) func(int) string {
		z := rand.NewZipf(r, 1.1, 1, 100_000)
		return func(int) string { return strconv.FormatUint(z.Uint64(), 10) }
	},
	"uniform": func(r *rand.Rand) func(int) string {
		return func(int) string { return strconv.Itoa(r.IntN(100_000)) }
	},
	"only new keys": func(*rand.Rand) func(int) string { return strconv.Itoa },
	// Each key returns just after it has lost its place.
	"round robin": func(r *rand.Rand) func(int) string {
		n := 9 + r.IntN(600)
		return func(i int) string { return strconv.Itoa(i % n) }
	},
	// Keys that are hot for a while, among new keys.
	"bursts": func(r *rand.Rand) func(int) string {
		return func(i int) string {
			if r.IntN(3) == 0 {
				return "hot" + strconv.Itoa(i/500)
			}
			return strconv.Itoa(i)
		}
	},
	// A hot key comes just after a flood that takes all places.
	"late": func(*rand.Rand) func(int) string {
		return func(i int) string {
			if i%2000 > 1800 {
				return "hot"
			}
			return strconv.Itoa(i)
		}
	},
}

// TestBounds compares sketches with exact counters.
func TestBounds(t *testing.T) {
	for name, stream := range streams {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				next := stream(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)))
				step := rapid.SampledFrom([]int64{1000, 20_000, 1_000_000, 50_000_000, 2 * second}).Draw(t, "step")
				now := rapid.Int64Range(0, 10*second).Draw(t, "start")
				p := newPair()
				p.epoch = now / second
				hits := 0
				for range rapid.IntRange(1, 4).Draw(t, "phases") {
					for range rapid.IntRange(1, 1500).Draw(t, "hits") {
						p.hit(now, next(hits))
						now += step
						hits++
					}
					p.check(t, now)
					now += rapid.SampledFrom([]int64{0, 1, second, 3 * second, 40 * second, 10_000 * second}).Draw(t, "pause")
					p.check(t, now)
				}
			})
		})
	}
}

// TestFrequentKeysAreListed: a sketch of one set lists each key with more than an eighth
// of all hits and four, however the others are chosen.
func TestFrequentKeysAreListed(t *testing.T) {
	for name, stream := range streams {
		next, p := stream(rand.New(rand.NewPCG(1, 2))), newPair()
		for i := range 180 {
			now := int64(i) * second / 180
			p.hit(now, next(i))
			if missing, most := p.Missing(now), (p.total/8+4)*(1/(1+float64(now)/float64(second))); missing > most+1e-9 {
				t.Fatalf("%s: Missing() = %.3f after %d hits, want at most %.3f", name, missing, i+1, most)
			}
			p.check(t, now)
		}
	}
}

// TestBusySketchIsPrecise: the bounds of a busy sketch are about 50 hits per second.
func TestBusySketchIsPrecise(t *testing.T) {
	for name, stream := range streams {
		for _, rate := range []int64{1_000, 10_000} {
			next, p := stream(rand.New(rand.NewPCG(3, 4))), newPair()
			now := int64(0)
			for i := range int(15 * rate) {
				p.hit(now, next(i))
				now += second / rate
			}
			p.check(t, now)
			if missing := p.Missing(now); missing > 75 {
				t.Errorf("%s: Missing() = %.1f at %d hits per second, want at most 75", name, missing, rate)
			}
		}
	}
}

// TestRate: the rate of a steady stream is that of the stream, at any time of a second.
func TestRate(t *testing.T) {
	var s hotkeys.Sketch
	for now := int64(0); now < 20*second; now += second / 1000 {
		s.Add(now, &hotkeys.Hit{Hash: 1, Key: "k", Weight: 1})
		if rate := s.Rate(now); now > 12*second && math.Abs(rate-1000) > 2 {
			t.Fatalf("Rate() = %.2f at %v, want 1000", rate, time.Duration(now))
		}
	}
	if rate := s.Rate(30 * second); rate > 1 {
		t.Errorf("Rate() = %.3f after 10 s without hits, want less than 1", rate)
	}
	if keys := s.Append(nil, 60*second, 0); len(keys) > 0 {
		t.Errorf("Append() = %v after 40 s without hits, want none", keys)
	}
}

func TestDetails(t *testing.T) {
	var s hotkeys.Sketch
	for i := range 100 {
		asker, tier := uint32(i%4/3), "free" // 0 has three quarters
		if i > 50 {
			tier = "paid"
		}
		s.Add(second*int64(i/50), &hotkeys.Hit{Hash: 7, Key: "acme/alice", Tier: tier, Model: "m", Asker: asker, Weight: 1})
	}
	keys := s.Append(nil, second, 0)
	if len(keys) != 1 {
		t.Fatalf("Append() = %v, want one key", keys)
	}
	slices.SortFunc(keys[0].Askers, func(a, b hotkeys.Asker) int { return int(a.ID) - int(b.ID) })
	want := hotkeys.Key{Key: "acme/alice", Tier: "free", Model: "m", Rate: 75, Askers: []hotkeys.Asker{{ID: 0, Rate: 56}, {ID: 1, Rate: 19}}}
	keys[0].Askers[0].Rate, keys[0].Askers[1].Rate = math.Round(keys[0].Askers[0].Rate), math.Round(keys[0].Askers[1].Rate)
	if diff := cmp.Diff(want, keys[0]); diff != "" {
		t.Errorf("Append() (-want +got):\n%s", diff)
	}
	s.Add(2*second, &hotkeys.Hit{Hash: 7, Key: "acme/alice", Tier: "paid", Weight: 1})
	if got := s.Append(nil, 2*second, 0)[0].Tier; got != "paid" {
		t.Errorf("tier is %s, want that of a recent hit, paid", got)
	}
	if got := s.Append(nil, 2*second, 1000); len(got) != 0 {
		t.Errorf("Append() with a rate of 1000 = %v, want none", got)
	}
}

// TestTrim: a sketch without hits for 32 s has no memory, and counts again.
func TestTrim(t *testing.T) {
	var s hotkeys.Sketch
	s.Add(0, &hotkeys.Hit{Hash: 1, Key: "k", Weight: 1})
	s.Trim(31 * second)
	if reflect.ValueOf(s).IsZero() {
		t.Error("a sketch is trimmed after 31 s, want 32")
	}
	s.Trim(32 * second)
	if !reflect.ValueOf(s).IsZero() {
		t.Error("a sketch is not trimmed after 32 s")
	}
	s.Add(33*second, &hotkeys.Hit{Hash: 1, Key: "k", Weight: 1})
	if k := s.Append(nil, 33*second, 0); len(k) != 1 || k[0].Rate != 1 {
		t.Errorf("Append() = %v after a hit, want k", k)
	}
}

// TestAskersAreBounded: of many askers, those who ask most are known.
func TestAskersAreBounded(t *testing.T) {
	var s hotkeys.Sketch
	for i := range uint32(10_000) {
		asker := i // each once
		if i%4 == 0 {
			asker = 1
		}
		s.Add(0, &hotkeys.Hit{Hash: 7, Key: "k", Asker: asker, Weight: 1})
	}
	k := s.Append(nil, 0, 0)[0]
	most := slices.MaxFunc(k.Askers, func(a, b hotkeys.Asker) int { return int(a.Rate - b.Rate) })
	if len(k.Askers) != 8 || most.ID != 1 || most.Rate < 2500 || most.Rate > 2500+10_000/8 {
		t.Errorf("askers = %v, want 8, and the most by 1: from 2500 to 3750", k.Askers)
	}
}

// TestNoAllocations: only places that are used for the first time allocate.
func TestNoAllocations(t *testing.T) {
	keys := make([]string, 5000)
	hashes := make([]uint64, len(keys))
	for i := range keys {
		keys[i] = fmt.Sprintf("acme/user-%08d", i)
		hashes[i] = maphash.String(seed, keys[i])
	}
	var s hotkeys.Sketch
	var hit hotkeys.Hit
	now, i := int64(0), 0
	z := rand.NewZipf(rand.New(rand.NewPCG(5, 6)), 1.1, 1, uint64(len(keys)-1))
	add := func() {
		k := z.Uint64()
		hit = hotkeys.Hit{Hash: hashes[k], Key: keys[k], Tier: "standard", Model: "llama-3-70b", Asker: uint32(i % 3), Weight: uint32(i%4) + 1}
		s.Add(now, &hit)
		now, i = now+second/10_000, i+1
	}
	for range 500_000 {
		add()
	}
	if n := testing.AllocsPerRun(100_000, add); n != 0 {
		t.Errorf("Add allocates %v times, want none", n)
	}
}

// TestOverflow: hits that cannot be counted are ignored.
func TestOverflow(t *testing.T) {
	var s hotkeys.Sketch
	const most = 1 << 31 / 16 / hotkeys.MaxWeight
	for range most + 1000 {
		s.Add(0, &hotkeys.Hit{Hash: 1, Key: "k", Weight: hotkeys.MaxWeight})
	}
	if rate := s.Append(nil, 0, 0)[0].Rate; rate != most*hotkeys.MaxWeight {
		t.Errorf("rate is %.0f, want %d", rate, most*hotkeys.MaxWeight)
	}
}

// BenchmarkAdd counts hits of one key, of a Zipf stream, and of keys that are all new, at a
// million per second.
func BenchmarkAdd(b *testing.B) {
	for name, next := range map[string]func() func(i int) uint64{
		"one": func() func(int) uint64 { return func(int) uint64 { return 0 } },
		"zipf": func() func(int) uint64 {
			z := rand.NewZipf(rand.New(rand.NewPCG(1, 1)), 1.1, 1, 1<<20-1)
			list := make([]uint64, 1<<16)
			for i := range list {
				list[i] = z.Uint64()
			}
			return func(i int) uint64 { return list[i&(1<<16-1)] }
		},
		"new": func() func(int) uint64 { return func(i int) uint64 { return uint64(i) } },
	} {
		b.Run(name, func(b *testing.B) {
			var s hotkeys.Sketch
			hit := hotkeys.Hit{Key: "acme/user-12345678", Tier: "standard", Asker: 1, Weight: 1}
			key, i, now := next(), 0, int64(0)
			b.ReportAllocs()
			for b.Loop() {
				hit.Hash = (key(i) + 1) * 0x9e3779b97f4a7c15 >> 7
				s.Add(now, &hit)
				i++
				now += 1000
			}
		})
	}
}
