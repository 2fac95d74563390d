// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/cputime"
)

// BenchmarkRecord records with one shard per goroutine.
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
			r.countOffered(s, q.due, false)
			r.recordAnswer(s, &q)
		}
	})
}

// BenchmarkClosedLoop measures planning, sending to a target that does nothing, and
// recording.
func BenchmarkClosedLoop(b *testing.B) {
	b.ReportAllocs()
	run(b, Options{Callers: 2})
}

// BenchmarkPool measures the maximum rate of the pool of an open loop.
func BenchmarkPool(b *testing.B) {
	o := Options{Target: CheckFunc(allow), Interval: time.Second}
	r := &runState{target: o.Target, timeout: time.Second, start: time.Now(), requestCtx: b.Context(), recorder: newRecorder(&o)}
	p := newPool(r, 64)
	c := new(planned)
	b.ReportAllocs()
	for b.Loop() {
		for !p.submit(c) {
			runtime.Gosched()
		}
	}
	p.calls.done()
	<-p.calls.idle
	p.close()
	p.running.Wait()
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

// BenchmarkPaced sends 200,000 calls per second in an open loop.
func BenchmarkPaced(b *testing.B) {
	b.ReportAllocs()
	a, err := Constant(200_000)
	r := run(b, Options{Arrivals: mustArrive(b, a, err)})
	b.ReportMetric(float64(r.Dropped)/float64(b.N), "dropped/op")
	b.ReportMetric(float64(r.Pacer.Lateness.P50.Microseconds()), "late-p50-us")
	b.ReportMetric(float64(r.Pacer.Lateness.P99.Microseconds()), "late-p99-us")
	b.ReportMetric(float64(r.ClientCPU)/float64(b.N), "cpu-ns/op")
}

// BenchmarkPacedRefused offers 350,000 calls per second that are refused at once.
func BenchmarkPacedRefused(b *testing.B) {
	refusal := &OverloadedError{}
	a, err := Poisson(350_000, 1)
	left := b.N
	b.ReportAllocs()
	r, err := Run(b.Context(), Options{
		Target:   CheckFunc(func(context.Context, *Call) (Answer, error) { return Answer{}, refusal }),
		Workload: WorkloadFunc(func(*Call) bool { left--; return left >= 0 }),
		Arrivals: mustArrive(b, a, err),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(r.Dropped)/float64(b.N), "dropped/op")
	b.ReportMetric(float64(r.Pacer.Lateness.P50.Microseconds()), "late-p50-us")
	b.ReportMetric(float64(r.ClientCPU)/float64(b.N), "cpu-ns/op")
}

// BenchmarkRefused measures an open loop whose calls are refused at once: what is left of
// the harness under overload.
func BenchmarkRefused(b *testing.B) {
	refusal := &OverloadedError{}
	o := Options{Target: CheckFunc(func(context.Context, *Call) (Answer, error) { return Answer{}, refusal }), Interval: time.Second}
	r := &runState{target: o.Target, timeout: time.Second, start: time.Now(), requestCtx: b.Context(), recorder: newRecorder(&o)}
	p := newPool(r, 1000)
	c := new(planned)
	begin := cputime.Used()
	b.ReportAllocs()
	for b.Loop() {
		for !p.submit(c) {
			runtime.Gosched()
		}
	}
	p.calls.done()
	<-p.calls.idle
	b.ReportMetric(float64(cputime.Used()-begin)/float64(b.N), "cpu-ns/op")
	p.close()
	p.running.Wait()
}
