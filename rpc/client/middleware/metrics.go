// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/rpc/client"
)

// Values of the label outcome for calls without a decision.
const (
	outcomeRejected    = "rejected"    // the body or the caller was not accepted
	outcomeUnreachable = "unreachable" // no node answered
	outcomeOverloaded  = "overloaded"  // refused because more is asked than can be answered in time
)

// Values of the label result of responses with a Content-Encoding.
const (
	responseDecoded   = "decoded"
	responseEstimated = "estimated"
)

// metrics count calls. All label values are constants.
type metrics struct {
	calls         *prometheus.CounterVec
	settles       *prometheus.CounterVec
	usageRejected prometheus.Counter
	deferred      prometheus.Counter
	failures      prometheus.Counter
	running       prometheus.Gauge
	rejections    *prometheus.CounterVec
	bodyBytes     prometheus.Gauge
	encoded       *prometheus.CounterVec
}

// newMetrics registers the metrics, or returns those that another middleware has
// registered already.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_calls_total",
			Help: "Metered calls by outcome: that of the decision, rejected, unreachable, or overloaded.",
		}, []string{"outcome"}),
		settles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_settles_total",
			Help: "Calls that have ended, by the source of their usage.",
		}, []string{"source"}),
		usageRejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_middleware_usage_rejected_total",
			Help: "Calls whose reported usage was not plausible and was replaced by an estimate.",
		}),
		deferred: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_middleware_settles_deferred_total",
			Help: "Settlements left to the client's outbox because no node could be reached.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_middleware_settle_failures_total",
			Help: "Settlements that a node rejected or that the client's outbox could not take.",
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bucketring_middleware_calls_running",
			Help: "Metered calls in progress.",
		}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_rejections_total",
			Help: "Calls that got no decision and did not run, by the code of their error.",
		}, []string{"reason"}),
		bodyBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bucketring_middleware_body_bytes",
			Help: "Bytes reserved for the bodies of metered calls that are in memory.",
		}),
		encoded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_encoded_responses_total",
			Help: "Responses to metered calls with a Content-Encoding, by result: decoded, or estimated because they could not be decoded.",
		}, []string{"result"}),
	}
	if reg == nil {
		return m, nil
	}
	err := errors.Join(register(reg, &m.calls), register(reg, &m.settles), register(reg, &m.usageRejected),
		register(reg, &m.deferred), register(reg, &m.failures), register(reg, &m.running),
		register(reg, &m.rejections), register(reg, &m.bodyBytes), register(reg, &m.encoded))
	if err != nil {
		return nil, err
	}
	for _, outcome := range []string{string(client.Allowed), string(client.Degraded), string(client.Denied), outcomeRejected, outcomeUnreachable, outcomeOverloaded} {
		m.calls.WithLabelValues(outcome)
	}
	for _, source := range []Source{SourceReported, SourceEstimated, SourcePartial, SourceRejected, SourceCancelled} {
		m.settles.WithLabelValues(string(source))
	}
	for _, result := range []string{responseDecoded, responseEstimated} {
		m.encoded.WithLabelValues(result)
	}
	for _, reason := range []string{codeBodyShare, codeBodyMemory} {
		m.rejections.WithLabelValues(reason)
	}
	return m, nil
}

// register registers a metric, or replaces it by the registered one.
func register[C prometheus.Collector](reg prometheus.Registerer, metric *C) error {
	err := reg.Register(*metric)
	if registered, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := registered.ExistingCollector.(C); ok {
			*metric = existing
			return nil
		}
	}
	return err
}

func (m *metrics) decided(o client.Outcome) { m.calls.WithLabelValues(string(o)).Inc() }

// undecided counts a call that was rejected for a reason.
func (m *metrics) undecided(outcome, reason string) {
	m.calls.WithLabelValues(outcome).Inc()
	m.rejections.WithLabelValues(reason).Inc()
}

// responseEncoded counts a response with a content coding.
func (m *metrics) responseEncoded(decoded bool) {
	result := responseEstimated
	if decoded {
		result = responseDecoded
	}
	m.encoded.WithLabelValues(result).Inc()
}

func (m *metrics) settled(r *Result) {
	m.running.Dec()
	m.settles.WithLabelValues(string(r.Source)).Inc()
	if r.UsageRejected {
		m.usageRejected.Inc()
	}
	if r.Deferred {
		m.deferred.Inc()
	}
	if r.Err != nil {
		m.failures.Inc()
	}
}
