// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// maker makes runs that look like real ones, the same for the same seed.
type maker struct {
	tb     testing.TB
	random *rand.Rand
}

func newMaker(tb testing.TB, seed uint64) *maker {
	return &maker{tb, rand.New(rand.NewPCG(seed, 1))}
}

// latencies returns n values with a tail, around a median.
func (m *maker) latencies(median time.Duration, spread float64, n int) *hdrhistogram.Histogram {
	h := hdrhistogram.New(1, int64(time.Hour), 3)
	for range n {
		v := float64(median) * math.Exp(m.random.NormFloat64()*spread)
		if m.random.IntN(200) == 0 {
			v *= 8 + 20*m.random.Float64()
		}
		_ = h.RecordValue(int64(v))
	}
	return h
}

func (m *maker) latency(op, route string, h *hdrhistogram.Histogram) Latency {
	m.tb.Helper()
	l, err := NewLatency(op, route, "", h)
	if err != nil {
		m.tb.Fatalf("NewLatency: %v", err)
	}
	return l
}

// target is one at a rate, for a number of seconds; stall is the second in which
// it stood still, if not negative.
func (m *maker) target(name string, rate, seconds int, median time.Duration, stall int) Target {
	m.tb.Helper()
	t := Target{Name: name, Duration: time.Duration(seconds) * time.Second}
	for i := range seconds {
		noise := func(f float64) float64 { return f * (1 + 0.02*m.random.NormFloat64()) }
		iv := Interval{At: time.Duration(i) * time.Second, Length: time.Second}
		iv.Offered = int64(rate)
		iv.Achieved = int64(min(noise(float64(rate)), float64(rate)))
		iv.Denied = int64(noise(float64(iv.Achieved) * 0.22))
		iv.P50 = time.Duration(noise(float64(median)))
		iv.P99 = time.Duration(noise(float64(median) * 4.5))
		if i == stall {
			iv.Failed = iv.Achieved / 5
			iv.Achieved -= iv.Failed
			iv.Denied = iv.Achieved / 5
			iv.P99 = 210 * time.Millisecond
			iv.P50 = 3 * median
		}
		t.Series = append(t.Series, iv)
		t.add(iv.Counts)
	}
	t.Completed = t.Achieved
	check, reserve := m.latencies(median, 0.45, 20000), m.latencies(median*3/2, 0.5, 6000)
	if stall >= 0 {
		for i := range 60 {
			_ = check.RecordValue(int64(time.Duration(i) * 210 * time.Millisecond / 60))
		}
	}
	all := hdrhistogram.New(1, int64(time.Hour), 3)
	all.Merge(check)
	all.Merge(reserve)
	t.Latencies = []Latency{m.latency("", "", all), m.latency("check", "", check), m.latency("reserve", "", reserve)}
	return t
}

// process has a sample per second.
func (m *maker) process(name string, seconds int, cores float64, rss int64) Process {
	p := Process{Name: name}
	for i := range seconds + 1 {
		s := Sample{At: time.Duration(i) * time.Second, CPU: p.CPU, RSS: rss + int64(i)<<18 + m.random.Int64N(1<<19)}
		p.CPU += time.Duration(cores * float64(time.Second) * (0.9 + 0.2*m.random.Float64()))
		p.PeakRSS = max(p.PeakRSS, s.RSS)
		p.Samples = append(p.Samples, s)
	}
	return p
}

func (m *maker) resources(t *Target, seconds, servers int) {
	res := &Resources{Client: m.process("", seconds, 0.35, 60<<20)}
	for i := range servers {
		p := m.process(fmt.Sprintf("node %d", i+1), seconds, 0.3, 90<<20)
		res.Servers = append(res.Servers, p)
	}
	res.PerMillion(t.Completed)
	t.Resources = res
}

func exactAudit() *Audit {
	a := &Audit{Verdict: Exact, Calls: 412_345, Limits: 4_096, Margin: 2 * time.Millisecond}
	for i := range 8 {
		a.Worst = append(a.Worst, LimitResult{
			Key: fmt.Sprintf("acme/user-%d", i), Dimension: "requests", Limit: "requests",
			Allowed: 10_000, Margin: 20, Admitted: 10_000 - int64(i*i*120),
		})
	}
	a.Worst[3].Dimension, a.Worst[3].Limit = "tokens", "org-tpm"
	return a
}

func violatedAudit() *Audit {
	a := &Audit{
		Verdict: Violated, Calls: 398_112, Limits: 4_096, Margin: 2 * time.Millisecond,
		OverAdmitted: 37, UnderAdmitted: 2, DoubleCharges: 3, LostSettles: 1,
	}
	for i := range 5 {
		over := int64(4_800 / (i*i + 1))
		a.Worst = append(a.Worst, LimitResult{
			Key: fmt.Sprintf("acme/user-%d", i), Dimension: "requests", Limit: "requests",
			Allowed: 10_000, Margin: 20, Admitted: 10_020 + over, Over: over,
		})
	}
	a.Worst = append(a.Worst, LimitResult{Key: "acme/last", Dimension: "tokens", Limit: "tokens", Allowed: 100_000, Admitted: 81_000, Under: 9_000})
	return a
}

// courses are those of n limits that are in use for the whole run: the first one
// full all the time, others less. In the second from outage on, fallback admits
// some more.
func (m *maker) courses(n, seconds, outage int) (list []UsageSeries) {
	for i := range n {
		k := UsageSeries{Key: fmt.Sprintf("acme/user-%d", i/2), Dimension: "requests", Limit: "rpm", Allowed: 1_000, Step: time.Second / 2}
		if i%2 == 1 {
			k.Dimension, k.Limit, k.Allowed = "tokens", "tokens", 60_000
		}
		for at := range 2 * seconds {
			if i > 3 && at%16 > 10 {
				continue // nothing was admitted
			}
			full := 1 - 0.06*float64(i)
			p := UsagePoint{At: time.Duration(at) * k.Step}
			p.Used = min(k.Allowed, int64(float64(k.Allowed)*full*(1-math.Exp(-float64(at+1)/6)+0.02*m.random.Float64())))
			p.WithFallback = p.Used
			if i < 4 && outage >= 0 && at >= 2*outage && at < 2*outage+8 {
				p.WithFallback += k.Allowed / 4
			}
			k.Points = append(k.Points, p)
			k.Calls += p.Used / 9
			k.Admitted += p.Used / 7
		}
		list = append(list, k)
	}
	return list
}

func environment() Environment {
	return Environment{
		CPU: "AMD EPYC 7B13", Cores: 2, MemoryBytes: 24 << 30, OS: "linux/amd64", System: "Debian GNU/Linux 12, kernel 6.1.0",
		Go: "go1.26.8", Version: "v0.4.0", Commit: "0123456789abcdef0123456789abcdef01234567",
		Versions: []Flag{{"redis", "7.0.15"}},
	}
}

func started() time.Time { return time.Date(2026, 11, 3, 14, 5, 6, 0, time.UTC) }

// faultRun is a run of one target in which a node was killed.
func faultRun(tb testing.TB) *Run {
	tb.Helper()
	m := newMaker(tb, 7)
	t := m.target("local cluster of 3", 20_000, 30, 380*time.Microsecond, 10)
	t.Description = "3 child processes on loopback, client library"
	local, forward := m.latencies(300*time.Microsecond, 0.4, 9_000), m.latencies(700*time.Microsecond, 0.4, 3_000)
	fallback := m.latencies(2*time.Millisecond, 0.3, 220)
	t.Latencies = append(t.Latencies, m.latency("check", "local", local), m.latency("check", "forward", forward), m.latency("check", "fallback", fallback))
	t.Marks = []Mark{{10 * time.Second, "kill", "node 1"}, {16 * time.Second, "join", "node 1"}, {24 * time.Second, "restart", "rolling"}}
	t.Errors = []ErrorCount{{"rpc error: code = Unavailable desc = connection refused", 3_911}}
	m.resources(&t, 30, 3)
	t.LLM = LLMCounts{Held: 150_000, Reported: 300_000, Settled: 149_990, SettlesFailed: 10}
	t.Pacer = &Pacer{P50: 3 * time.Microsecond, P99: 80 * time.Microsecond, Max: 900 * time.Microsecond}
	t.Audit = exactAudit()
	t.Audit.UsageSeries = m.courses(12, 30, 10)
	return &Run{
		FormatVersion: FormatVersion, Started: started(), Seed: 42, Environment: environment(),
		Command: "bucketring bench run --local 3 --rate 20k --for 30s --keys zipf:1.1x100k --tokens chat --kill 1@10s --join 1@16s",
		Flags:   []Flag{{"rate", "20k"}, {"for", "30s"}, {"keys", "zipf:1.1x100k"}, {"warmup", "5s"}},
		Harness: &Harness{
			MaxRate: 300_000, ClosedRate: 2_900_000, OverheadRate: 10_000,
			OverheadP50: 61 * time.Microsecond, OverheadP99: 240 * time.Microsecond, OverheadMax: 2 * time.Millisecond, CPUPerMillion: 2_700 * time.Millisecond,
		},
		Load:    Load{Loop: "open", Arrivals: "poisson", RatePerSecond: 20_000, Workload: "keys zipf:1.1x100k, tokens chat", Warmup: 5 * time.Second, Duration: 30 * time.Second},
		Targets: []Target{t},
	}
}

// versusRun is a run in which two targets took turns.
func versusRun(tb testing.TB) *Run {
	tb.Helper()
	m := newMaker(tb, 8)
	ours := m.target("bucketring", 12_000, 24, 240*time.Microsecond, -1)
	theirs := m.target("redis INCR", 12_000, 24, 310*time.Microsecond, -1)
	m.resources(&ours, 24, 1)
	m.resources(&theirs, 24, 1)
	ours.Audit, theirs.Audit = exactAudit(), violatedAudit()
	other := newMaker(tb, 80)
	ours.Audit.UsageSeries, theirs.Audit.UsageSeries = other.courses(5, 24, -1), other.courses(2, 24, -1)
	for i := range 6 { // twice as much around the turn of a window
		p := &theirs.Audit.UsageSeries[0].Points[20+i]
		p.Used = 1_000 + int64(i)*160
		p.WithFallback = p.Used
	}
	r := &Run{
		FormatVersion: FormatVersion, Started: started(), Seed: 42, Environment: environment(),
		Command: "bucketring bench run --local 1 --vs redis://localhost:6379 --rate 12k --for 24s",
		Load:    Load{Loop: "open", Arrivals: "constant", RatePerSecond: 12_000, Workload: "keys uniform:100k", Warmup: 2 * time.Second, Duration: 24 * time.Second},
		Targets: []Target{ours, theirs},
		Pairing: &Pairing{Baseline: "redis INCR"},
	}
	for i := range 8 {
		drift := 1 + 0.1*m.random.Float64()
		turn := func(name string, p50 time.Duration) Turn {
			noise := func(d time.Duration) time.Duration {
				return time.Duration(float64(d) * drift * (1 + 0.03*m.random.NormFloat64()))
			}
			return Turn{Target: name, RatePerSecond: 11_900 + 100*m.random.Float64(), P50: noise(p50), P99: noise(p50 * 5), CPUPerMillion: noise(p50 * 40_000)}
		}
		turns := []Turn{turn("bucketring", 240*time.Microsecond), turn("redis INCR", 310*time.Microsecond)}
		if i%2 == 1 {
			turns[0], turns[1] = turns[1], turns[0]
		}
		r.Pairing.Rounds = append(r.Pairing.Rounds, Round{turns})
	}
	return r
}

// hostileRun has names that try to leave their place, and numbers at the edge.
func hostileRun(tb testing.TB) *Run {
	tb.Helper()
	m := newMaker(tb, 9)
	evil := `</title></svg><script>alert(1)</script>" onload="alert(2)` + "\x1b[31m\x00\xff'&<!--]]>\n\u202e"
	t := m.target(evil, 10, 3, time.Millisecond, -1)
	t.Description = evil
	t.Latencies[1].Route = evil
	t.Latencies[1].Outcome = evil
	t.Marks = []Mark{{time.Second, evil, evil}}
	t.Errors = []ErrorCount{{evil, 1}}
	t.Audit = &Audit{Verdict: Violated, Text: evil, Worst: []LimitResult{{Key: evil, Dimension: evil, Limit: evil, Admitted: 1, Over: 1}}}
	t.Audit.UsageSeries = []UsageSeries{{Key: evil, Dimension: evil, Limit: evil, Step: 1, Points: []UsagePoint{{Used: 1, WithFallback: 2}}}, {Key: evil, Step: time.Hour}}
	t.Resources = &Resources{Client: Process{Name: evil, CPU: 1}, Servers: []Process{{Name: evil, Samples: []Sample{{}, {At: 1, CPU: 1}}}}, ServerCPUPerMillion: 1}
	other := m.target(evil+"2", 10, 3, time.Millisecond, -1)
	return &Run{
		FormatVersion: FormatVersion, Command: evil, Flags: []Flag{{evil, evil}},
		Load:        Load{Loop: evil, Arrivals: evil, Workload: evil},
		Environment: Environment{CPU: evil, OS: evil, System: evil, Go: evil, Version: evil, Commit: evil, Versions: []Flag{{evil, evil}}},
		Targets:     []Target{t, other},
		Pairing: &Pairing{Baseline: evil, Rounds: []Round{{[]Turn{
			{Target: evil, RatePerSecond: 1, P50: 1},
			{Target: evil + "2", RatePerSecond: 2, P50: 1},
		}}}},
	}
}
