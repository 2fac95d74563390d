// SPDX-License-Identifier: Apache-2.0

package server

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
)

// waitOutcome is how the waiting of a call ended.
type waitOutcome int

// The outcomes.
const (
	waitAdmitted waitOutcome = iota
	waitDenied               // its time was over, or it could not fit any more
	waitLeft                 // its caller went, or cancelled it
	waitMoved                // it is asked again at the next owner
	waitOutcomes
)

func (o waitOutcome) String() string {
	return [...]string{"admitted", "denied", "left", "moved"}[o]
}

// waitRefusals are the reasons for which a call that would wait is denied at once.
var waitRefusals = [...]line.Refusal{line.LimitFull, line.KeyFull, line.LineFull, line.TooLate}

// waitMetrics counts the calls that wait. It is safe for concurrent use.
type waitMetrics struct {
	now     [limiter.Batch + 1]atomic.Int64
	results [limiter.Batch + 1][waitOutcomes]prometheus.Counter
	waited  [limiter.Batch + 1]prometheus.Observer
	reasons map[line.Refusal]prometheus.Counter
}

func newWaitMetrics(f promauto.Factory) *waitMetrics {
	m := &waitMetrics{reasons: map[line.Refusal]prometheus.Counter{}}
	ended := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_waits_total",
		Help: "Calls that waited for a limit at this member, their owner, by their class and how it ended: admitted, denied because their time was over, left because their caller went, or moved to the next owner.",
	}, []string{"class", "outcome"})
	waited := f.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "bucketring_wait_duration_seconds",
		Help:    "How long calls waited for a limit that were admitted then.",
		Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300},
	}, []string{"class"})
	refused := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_waits_refused_total",
		Help: "Calls that were denied at once although calls may wait at the limit: it would have been too late, or as many as may wait at the limit, of the key or of the root did.",
	}, []string{"reason"})
	for _, r := range waitRefusals {
		m.reasons[r] = refused.WithLabelValues(r.String())
	}
	for _, class := range limiter.Priorities {
		for o := range waitOutcomes {
			m.results[class][o] = ended.WithLabelValues(class.String(), o.String())
		}
		m.waited[class] = waited.WithLabelValues(class.String())
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bucketring_waiting", Help: "Calls that wait for a limit at this member, their owner.",
			ConstLabels: prometheus.Labels{"class": class.String()},
		}, func() float64 { return float64(m.now[class].Load()) })
	}
	return m
}

func (m *waitMetrics) began(class limiter.Priority) { m.now[class].Add(1) }
func (m *waitMetrics) gone(class limiter.Priority)  { m.now[class].Add(-1) }

func (m *waitMetrics) ended(class limiter.Priority, o waitOutcome, waited time.Duration) {
	if class == limiter.NoPriority {
		return // it never waited, or joined another call
	}
	m.results[class][o].Inc()
	if o == waitAdmitted {
		m.waited[class].Observe(waited.Seconds())
	}
}

func (m *waitMetrics) refused(why line.Refusal) {
	if c := m.reasons[why]; c != nil {
		c.Inc()
	}
}

// Waiting is how many calls wait at a member, by class.
type Waiting struct{ Interactive, Standard, Batch int64 }

// Waiting returns how many calls wait at this member.
func (s *Service) Waiting() Waiting {
	now := &s.metrics.waiting.now
	return Waiting{now[limiter.Interactive].Load(), now[limiter.Standard].Load(), now[limiter.Batch].Load()}
}
