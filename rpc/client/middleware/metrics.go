// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/rpc/client"
)

// The label values of calls that got no decision.
const (
	outcomeRefused     = "refused"     // it cannot be metered: its body, its caller
	outcomeUnreachable = "unreachable" // no node answered
)

// metrics count calls. Labels come from fixed sets, never from a caller.
type metrics struct {
	calls    *prometheus.CounterVec
	settles  *prometheus.CounterVec
	lies     prometheus.Counter
	later    prometheus.Counter
	failures prometheus.Counter
	running  prometheus.Gauge
}

// newMetrics registers the metrics, or finds those that another middleware of
// the same process has registered.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_calls_total",
			Help: "Metered calls, by the outcome of the decision, or why there was none.",
		}, []string{"outcome"}),
		settles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_settles_total",
			Help: "Calls that have ended, by where their usage comes from.",
		}, []string{"source"}),
		lies: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_middleware_usage_lies_total",
			Help: "Calls whose reported usage was not to be believed, and was estimated.",
		}),
		later: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_middleware_settles_later_total",
			Help: "Settlements that no node could be reached for, left to the client's outbox.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_middleware_settle_failures_total",
			Help: "Settlements that were refused, or could not be left to the client's outbox.",
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bucketring_middleware_calls_running",
			Help: "Metered calls under way.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	err := errors.Join(register(reg, &m.calls), register(reg, &m.settles), register(reg, &m.lies),
		register(reg, &m.later), register(reg, &m.failures), register(reg, &m.running))
	if err != nil {
		return nil, err
	}
	for _, outcome := range []string{string(client.Allowed), string(client.Degraded), string(client.Denied), outcomeRefused, outcomeUnreachable} {
		m.calls.WithLabelValues(outcome)
	}
	for _, source := range []Source{Reported, Estimated, Partial, Cancelled} {
		m.settles.WithLabelValues(string(source))
	}
	return m, nil
}

// register adds a metric, or replaces it by the one that is there already.
func register[C prometheus.Collector](reg prometheus.Registerer, metric *C) error {
	err := reg.Register(*metric)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := there.ExistingCollector.(C); ok {
			*metric = existing
			return nil
		}
	}
	return err
}

func (m *metrics) decided(o client.Outcome) { m.calls.WithLabelValues(string(o)).Inc() }

func (m *metrics) undecided(why string) { m.calls.WithLabelValues(why).Inc() }

func (m *metrics) settled(r *Result) {
	m.running.Dec()
	m.settles.WithLabelValues(string(r.Source)).Inc()
	if r.Lied {
		m.lies.Inc()
	}
	if r.Later {
		m.later.Inc()
	}
	if r.Err != nil {
		m.failures.Inc()
	}
}
