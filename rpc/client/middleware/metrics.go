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

// outcomes are the values of the label outcome.
var outcomes = []client.Outcome{client.Allowed, client.Degraded, client.Denied, OutcomeUndecided, outcomeRejected, outcomeUnreachable, outcomeOverloaded}

// Values of the label result of charges without a decision.
const (
	lateCharged = "charged"
	lateDropped = "dropped"
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
	usageRefused  prometheus.Counter
	accuracy      *accuracy
	encoded       *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	firstBytes    *prometheus.HistogramVec
	late          *prometheus.CounterVec
	charged       *chargedMetrics

	times map[client.Outcome]outcomeTimes // not changed after newMetrics
}

// outcomeTimes are the histograms of one outcome.
type outcomeTimes struct{ duration, firstByte prometheus.Observer }

// timeBuckets are the seconds of histograms: from the time of a denial to that of a long
// generation.
var timeBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600}

// newMetrics registers the metrics, or returns those that another middleware has
// registered already.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_calls_total",
			Help: "Metered calls by outcome: that of the decision, rejected, unreachable, overloaded, or undecided.",
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
		usageRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_middleware_streams_without_usage_total",
			Help: "Streams that were sent without asking for their usage, because the model server refuses that. They are charged an estimate.",
		}),
		accuracy: newAccuracy(),
		encoded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_encoded_responses_total",
			Help: "Responses to metered calls with a Content-Encoding, by result: decoded, or estimated because they could not be decoded.",
		}, []string{"result"}),
	}
	m.durations = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "bucketring_middleware_call_seconds", Buckets: timeBuckets,
		Help: "Time of metered calls by outcome, from before the decision to after the charge.",
	}, []string{"outcome"})
	m.firstBytes = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "bucketring_middleware_first_byte_seconds", Buckets: timeBuckets,
		Help: "Time to the first byte of the response to metered calls, by outcome.",
	}, []string{"outcome"})
	m.late = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_middleware_undecided_charges_total",
		Help: "Charges of calls that ran without a decision, by result: charged when a node answered, or dropped.",
	}, []string{"result"})
	m.charged = newChargedMetrics()
	if reg == nil {
		m.resolveTimes()
		return m, nil
	}
	err := errors.Join(register(reg, &m.calls), register(reg, &m.settles), register(reg, &m.usageRejected),
		register(reg, &m.deferred), register(reg, &m.failures), register(reg, &m.running),
		register(reg, &m.rejections), register(reg, &m.bodyBytes), register(reg, &m.encoded),
		register(reg, &m.durations), register(reg, &m.firstBytes), register(reg, &m.late), m.charged.register(reg),
		register(reg, &m.usageRefused), m.accuracy.register(reg))
	if err != nil {
		return nil, err
	}
	m.resolveTimes()
	for _, outcome := range outcomes {
		m.calls.WithLabelValues(string(outcome))
	}
	for _, result := range []string{lateCharged, lateDropped} {
		m.late.WithLabelValues(result)
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

func (m *metrics) resolveTimes() {
	m.times = make(map[client.Outcome]outcomeTimes, len(outcomes))
	for _, o := range outcomes {
		m.times[o] = outcomeTimes{m.durations.WithLabelValues(string(o)), m.firstBytes.WithLabelValues(string(o))}
	}
}

// ended records a call that has ended.
func (m *metrics) ended(r *Result) {
	if times, ok := m.times[r.Outcome]; ok {
		times.duration.Observe(r.Duration.Seconds())
		if r.FirstByte > 0 {
			times.firstByte.Observe(r.FirstByte.Seconds())
		}
	}
	if r.Outcome != OutcomeUndecided { // else it is counted when it is charged
		m.charged.add(r.Tier, r.Model, &r.Charged, r.spend)
	}
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
	if r.UsageRefused {
		m.usageRefused.Inc()
	}
	if r.Deferred {
		m.deferred.Inc()
	}
	if r.Err != nil {
		m.failures.Inc()
	}
}
