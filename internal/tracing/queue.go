// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

const (
	maxQueued = 4096 // spans, of about 1 KiB
	maxBatch  = 512
	sendEvery = time.Second
	// complainEvery is the time between two messages about a collector that does not answer.
	complainEvery = time.Minute
)

// queue has spans that have ended, and sends them in one goroutine.
type queue struct {
	exporter sdktrace.SpanExporter
	log      *slog.Logger
	spans    chan sdktrace.ReadOnlySpan
	stop     chan struct{} // closed by Shutdown
	stopOnce sync.Once
	done     chan struct{} // closed when everything was sent
	sending  context.Context
	cancel   context.CancelFunc // of sending

	sent, full, failed prometheus.Counter

	complain time.Time // not before then
	lost     int       // since the last complaint
}

var _ sdktrace.SpanProcessor = (*queue)(nil)

func newQueue(exporter sdktrace.SpanExporter, o Options) *queue {
	f := promauto.With(o.Registry)
	dropped := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_trace_spans_dropped_total",
		Help: "Spans that did not reach the collector: queue_full, because it is slow; export_failed, because it did not take them.",
	}, []string{"reason"})
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	q := &queue{
		exporter: exporter, log: log, spans: make(chan sdktrace.ReadOnlySpan, maxQueued),
		stop: make(chan struct{}), done: make(chan struct{}),
		sent: f.NewCounter(prometheus.CounterOpts{Name: "bucketring_trace_spans_sent_total", Help: "Spans that the collector has taken."}),
		full: dropped.WithLabelValues("queue_full"), failed: dropped.WithLabelValues("export_failed"),
	}
	q.sending, q.cancel = context.WithCancel(context.Background())
	go q.run()
	return q
}

// OnStart implements sdktrace.SpanProcessor.
func (*queue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor. It never blocks.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	select {
	case q.spans <- s:
	default:
		q.full.Inc()
	}
}

// ForceFlush implements sdktrace.SpanProcessor. Spans are sent every second anyway.
func (*queue) ForceFlush(context.Context) error { return nil }

// Shutdown implements sdktrace.SpanProcessor. It sends what waits until ctx ends.
func (q *queue) Shutdown(ctx context.Context) error {
	q.stopOnce.Do(func() { close(q.stop) })
	var late error
	select {
	case <-q.done:
	case <-ctx.Done():
		late = ctx.Err()
		q.cancel() // what is left fails at once
		<-q.done
	}
	return errors.Join(late, q.exporter.Shutdown(ctx))
}

func (q *queue) run() {
	defer close(q.done)
	defer q.cancel()
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	batch := make([]sdktrace.ReadOnlySpan, 0, maxBatch)
	for {
		stopped := false
		select {
		case s := <-q.spans:
			if batch = append(batch, s); len(batch) < maxBatch {
				continue
			}
		case <-tick.C:
		case <-q.stop:
			stopped = true
		}
		for more := true; more; {
			for len(batch) < maxBatch && len(q.spans) > 0 {
				batch = append(batch, <-q.spans)
			}
			more = stopped && len(q.spans) > 0
			q.send(batch)
			clear(batch)
			batch = batch[:0]
		}
		if stopped {
			return
		}
	}
}

// send sends spans, once.
func (q *queue) send(batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(q.sending, exportTimeout)
	defer cancel()
	err := q.exporter.ExportSpans(ctx, batch)
	if err == nil {
		q.sent.Add(float64(len(batch)))
		return
	}
	q.failed.Add(float64(len(batch)))
	q.lost += len(batch)
	if now := time.Now(); !now.Before(q.complain) {
		q.complain = now.Add(complainEvery)
		q.log.Warn("spans cannot be sent: they are dropped, and calls go on", "dropped", q.lost, "error", explained(err))
		q.lost = 0
	}
}
