// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"log/slog"
	"math"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bucketring/bucketring/internal/cputime"
	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/rpc/server"
)

const (
	// queueInterval is the time between two samples of the queue for processors. A
	// sample takes about a microsecond.
	queueInterval = 20 * time.Millisecond
	// restInterval is that time while there are no calls. The first call ends it.
	restInterval = time.Second
	// overloadLogInterval is the least time between two lines about overload.
	overloadLogInterval = time.Minute
	// schedLatencies is how long goroutines were runnable before they ran. The runtime
	// measures it for one of 8.
	schedLatencies = "/sched/latencies:seconds"
	// callTime and itemTime are the least processor time that a unary call and an item of
	// a client's stream take, with what gRPC or HTTP takes.
	callTime = 20 * time.Microsecond
	itemTime = 2 * time.Microsecond
)

// processorQueue measures how long work waits for a processor in this process, and
// makes the admission refuse new calls while that is too long. One goroutine uses it.
type processorQueue struct {
	admission *server.Admission
	log       *slog.Logger
	shedder   overload.Shedder
	bound     overload.Bound
	latencies []metrics.Sample
	counts    []uint64 // of the histogram, at the last sample
	cpu       time.Duration
	asked     time.Duration // that all calls took until the last sample, at least
	at        time.Time
	calls     int64 // that were begun until the last sample, and items
	items     int64
	samples   atomic.Int64 // how many there were
	queued    atomic.Int64 // nanoseconds, of the last sample

	counted       int64 // calls that are in recent
	recent        overload.Recent
	refusedLately atomic.Int64 // in the last minute

	refused int64     // when the last line was logged
	logNext time.Time // not before
}

func newProcessorQueue(reg prometheus.Registerer, admission *server.Admission, log *slog.Logger) *processorQueue {
	q := &processorQueue{admission: admission, log: log, latencies: []metrics.Sample{{Name: schedLatencies}}}
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_overload_queued_seconds",
		Help: "Processor time of calls that is queued for each processor of the node. Above 0.005 for 100 ms, a share of new calls is refused.",
	}, func() float64 { return time.Duration(q.queued.Load()).Seconds() })
	return q
}

// watch samples the queue until ctx is done.
func (q *processorQueue) watch(ctx context.Context) error {
	timer := time.NewTimer(queueInterval)
	defer timer.Stop()
	q.sample(time.Now())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.admission.Resumed():
			q.sample(time.Now()) // what happened before was not because of calls
			timer.Reset(queueInterval)
			continue
		case <-timer.C:
		}
		now := time.Now()
		m := q.sample(now)
		q.update(now, m)
		if m.Calls == 0 && q.rests() {
			timer.Reset(restInterval)
		} else {
			timer.Reset(queueInterval)
		}
	}
}

// rests reports whether nothing is refused or in progress, so that samples matter only after
// the next call, which ends the rest.
func (q *processorQueue) rests() bool {
	a := q.admission
	return a.Calls() == 0 && a.Share() == 0 && a.Bound() >= overload.MaxCalls && q.refusedLately.Load() == 0 && a.Rest(q.calls, q.items)
}

// update makes the admission follow a sample.
func (q *processorQueue) update(now time.Time, m overload.Sample) {
	q.admission.Refuse(q.shedder.Update(m))
	q.admission.SetBound(q.bound.Update(m, q.admission.Calls()))
	q.queued.Store(int64(q.shedder.Queued()))
	refused := q.admission.Refused()
	q.recent.Add(now.UnixNano(), refused-q.counted)
	q.counted = refused
	q.refusedLately.Store(q.recent.Sum(now.UnixNano()))
	q.report(now)
}

// sample returns what happened since the last sample.
func (q *processorQueue) sample(now time.Time) overload.Sample {
	cpu := cputime.Used()
	s := overload.Sample{Elapsed: now.Sub(q.at), CPU: cpu - q.cpu, Processors: runtime.GOMAXPROCS(0)}
	q.samples.Add(1)
	q.calls, q.items = q.admission.Asked()
	asked := time.Duration(q.calls)*callTime + time.Duration(q.items)*itemTime
	s.Calls = asked - q.asked
	q.at, q.cpu, q.asked = now, cpu, asked
	if cpu == 0 { // unknown: as if all were used
		s.CPU = s.Elapsed * time.Duration(s.Processors)
	}
	metrics.Read(q.latencies)
	if q.latencies[0].Value.Kind() != metrics.KindFloat64Histogram {
		return s
	}
	h := q.latencies[0].Value.Float64Histogram()
	if q.counts == nil {
		q.counts = make([]uint64, len(h.Counts))
	}
	var waits float64
	for i, count := range h.Counts {
		if n := count - q.counts[i]; n > 0 {
			low, high := max(h.Buckets[i], 0), h.Buckets[i+1]
			if math.IsInf(high, 1) {
				high = low
			}
			waits += (low + high) / 2 * float64(n)
			s.Runs += int64(n)
		}
		q.counts[i] = count
	}
	s.Waits = time.Duration(waits * 1e9)
	return s
}

// report logs at most once in a minute that calls were refused.
func (q *processorQueue) report(now time.Time) {
	refused := q.admission.Refused()
	if refused == q.refused || now.Before(q.logNext) {
		return
	}
	q.log.Warn("overloaded: new calls are refused", "refused", refused-q.refused, "refused_percent", q.admission.Share()*100/overload.Whole,
		"calls", q.admission.Calls(), "max_calls", q.admission.Bound(), "wait_for_processor", q.bound.Wait(), "queued", q.shedder.Queued())
	q.refused, q.logNext = refused, now.Add(overloadLogInterval)
}
