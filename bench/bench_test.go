// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// The recorder, with one shard for each goroutine.
func BenchmarkRecord(b *testing.B) {
	o := Options{Interval: time.Second}
	r := newRecorder(&o)
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		s := r.shard(int(n.Add(1) - 1))
		q := sample{op: OpCheck, outcome: Allowed, route: "local"}
		for pb.Next() {
			q.due += 100
			q.sent, q.done = q.due+50, q.due+100_000+q.due%7919
			r.offered(s, q.due, false)
			r.answered(s, &q)
		}
	})
}

// What one call costs, as fast as they go: planning, asking a target that does
// nothing, and recording.
func BenchmarkClosedLoop(b *testing.B) {
	b.ReportAllocs()
	run(b, Options{Callers: 2})
}

// The most that the pool of an open loop takes.
func BenchmarkPool(b *testing.B) {
	o := Options{Target: CheckFunc(allow), Interval: time.Second}
	r := &running{target: o.Target, timeout: time.Second, base: time.Now(), calls: b.Context(), recorder: newRecorder(&o)}
	p := newPool(r, 64)
	c := new(planned)
	b.ReportAllocs()
	for b.Loop() {
		for !p.begin(c) {
			runtime.Gosched()
		}
	}
	p.calls.end()
	<-p.calls.zero
	close(p.tasks)
	p.busy.Wait()
}

func run(b *testing.B, o Options) *Result {
	left := b.N
	o.Target = CheckFunc(allow)
	o.Workload = WorkloadFunc(func(*Call) bool { left--; return left >= 0 })
	r, err := Run(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	if r.Offered != int64(b.N) {
		b.Fatalf("%d calls, want %d", r.Offered, b.N)
	}
	return r
}

// 200,000 calls per second, as a run sends them.
func BenchmarkPaced(b *testing.B) {
	b.ReportAllocs()
	a, err := Constant(200_000)
	r := run(b, Options{Arrivals: mustArrive(b, a, err)})
	b.ReportMetric(float64(r.Dropped)/float64(b.N), "dropped/op")
	b.ReportMetric(float64(r.Pacer.Lateness.P50.Microseconds()), "late-p50-us")
	b.ReportMetric(float64(r.Pacer.Lateness.P99.Microseconds()), "late-p99-us")
	b.ReportMetric(float64(r.ClientCPU)/float64(b.N), "cpu-ns/op")
}
