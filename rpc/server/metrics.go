// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bucketring/bucketring/internal/growmap"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// noDimension labels a decision that no limit took part in.
const noDimension = "none"

// metrics counts answers. Labels come from the policy and from fixed sets,
// never from a caller. Looking a series up takes no lock.
type metrics struct {
	decisions      *prometheus.CounterVec
	shadow         *prometheus.CounterVec
	degradedTokens prometheus.Counter
	fallback       [limiter.Denied + 1]prometheus.Counter
	durations      [pb.Route_ROUTE_FALLBACK + 1]prometheus.Observer
	invalid        map[string]prometheus.Counter
	done           map[settling]prometheus.Counter
	delta          prometheus.Histogram
	reasserted     prometheus.Counter
	counts         map[counting]prometheus.Counter
	waiting        *waitMetrics
	traffic        traffic

	series growmap.Map[series, *counters]
}

// series names the counters of one dimension in one tier.
type series struct{ dimension, tier string }

type counters struct {
	outcome [limiter.Denied + 1]prometheus.Counter
	shadow  prometheus.Counter
}

// settling is the result of a settle or a cancel.
type settling string

const (
	settledUnknown  settling = "unknown_reservation"
	settledConflict settling = "request_id_conflict"
	settledFailed   settling = "failed"
)

// counting is the state of a counter after its hits.
type counting string

const (
	countedWithin counting = "within"
	countedOver   counting = "over"
	countedFullUp counting = "full"
)

// invalidFields bounds a label. A field outside of it counts as "other".
var invalidFields = [...]string{
	"key", "tier", "model", "request_id", "requests", "input_tokens", "cached_input_tokens", "output_tokens",
	"cache_write_tokens", "cache_write_1h_tokens", "images", "searches", "service_tier",
	"max_output_tokens", "min_output_tokens", "estimated_input", "known_input_tokens", "n", "ttl_seconds", "costs", "priority", "max_wait", "final", "items", "call", "slice", "spent", "calls", "kept", "other",
}

func newMetrics(reg prometheus.Registerer, engine *limiter.Engine) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		decisions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_decisions_total",
			Help: "Answers to check and reserve, by the dimension of the binding limit, at the member that decided: the owner or, in fallback, the member asked.",
		}, []string{"dimension", "tier", "outcome"}),
		shadow: f.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_shadow_denials_total",
			Help: "Calls that a limit in shadow mode would have denied.",
		}, []string{"dimension", "tier"}),
		degradedTokens: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_degraded_tokens_total",
			Help: "Output tokens asked for and not granted, in degraded answers.",
		}),
		delta: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "bucketring_settle_delta_tokens",
			Help:    "Tokens reserved less tokens charged at the final settle; negative when the estimate was too low.",
			Buckets: []float64{-10_000, -1000, -100, -10, 0, 10, 100, 1000, 10_000, 100_000},
		}),
		reasserted: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_reasserted_reservations_total",
			Help: "Reservations that were lost with the members that had them, and charged again because a settle or a progress brought them along.",
		}),
		invalid: map[string]prometheus.Counter{},
		done:    map[settling]prometheus.Counter{},
		counts:  map[counting]prometheus.Counter{},
	}
	fallback := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_fallback_decisions_total",
		Help: "Answers to check and reserve that this member gave without the owner. They are counted in bucketring_decisions_total too.",
	}, []string{"outcome"})
	for o := limiter.Allowed; o <= limiter.Denied; o++ {
		m.fallback[o] = fallback.WithLabelValues(o.String())
	}
	duration := f.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "bucketring_decision_duration_seconds",
		Help:    "Time from a parsed request, or from the batch that brought it, to its decision. The owner of a forwarded call observes it too, as local.",
		Buckets: []float64{10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1},
	}, []string{"route"})
	for route := pb.Route_ROUTE_LOCAL; route <= pb.Route_ROUTE_FALLBACK; route++ {
		m.durations[route] = duration.WithLabelValues(routeName(route))
	}
	invalid := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_invalid_requests_total",
		Help: "Requests rejected because of one of their fields.",
	}, []string{"field"})
	for _, field := range invalidFields {
		m.invalid[field] = invalid.WithLabelValues(field)
	}
	done := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_settlements_total",
		Help: "Settles and cancels, by the resulting state of the reservation or the reason for the rejection.",
	}, []string{"status"})
	for s := limiter.Held; s <= limiter.Expired; s++ {
		m.done[settling(s.String())] = done.WithLabelValues(s.String())
	}
	for _, s := range []settling{settledUnknown, settledConflict, settledFailed} {
		m.done[s] = done.WithLabelValues(string(s))
	}
	counts := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_counts_total",
		Help: "Calls that counted hits on counters whose limit came with the call, by the state of the counter, at the member that counted: the owner or, in fallback, the member asked.",
	}, []string{"result"})
	for _, c := range []counting{countedWithin, countedOver, countedFullUp} {
		m.counts[c] = counts.WithLabelValues(string(c))
	}
	m.waiting = newWaitMetrics(f)
	if reg != nil {
		reg.MustRegister(newStatsCollector(engine.Stats), newUsageCollector(engine.Usage))
	}
	return m
}

// of returns the counters of a dimension in a tier. Both are the policy's, so
// there are few, and soon all are known.
func (m *metrics) of(dimension limiter.Dimension, tier string) *counters {
	key := series{string(dimension), tier}
	if c, ok := m.series.Get(key); ok {
		return c
	}
	return m.series.Add(key, func() (series, *counters) {
		// The labels live as long as the process. A tier may be part of the memory of a
		// request, which should not.
		key := series{strings.Clone(key.dimension), strings.Clone(key.tier)}
		c := &counters{shadow: m.shadow.WithLabelValues(key.dimension, key.tier)}
		for o := limiter.Allowed; o <= limiter.Denied; o++ {
			c.outcome[o] = m.decisions.WithLabelValues(key.dimension, key.tier, o.String())
		}
		return key, c
	})
}

func (m *metrics) decided(route pb.Route, r *limiter.Request, d *limiter.Decision) {
	dimension := limiter.Dimension(noDimension)
	if d.Binding >= 0 && d.Binding < len(d.Limits) {
		dimension = d.Limits[d.Binding].Dimension
	}
	if c := m.of(dimension, d.Tier).outcome[d.Outcome&3]; c != nil {
		c.Inc()
	}
	if c := m.fallback[d.Outcome&3]; c != nil && route == pb.Route_ROUTE_FALLBACK {
		c.Inc()
	}
	m.traffic.decided(route, d)
	if d.Replayed {
		return
	}
	if d.Outcome == limiter.Degraded {
		asked := r.OutputTokens
		if asked < 0 {
			asked = r.Plan.DefaultOutput
		}
		m.degradedTokens.Add(float64((asked - d.GrantedOutputTokens) * max(r.Choices, 1)))
	}
	for i := range d.Limits {
		if l := &d.Limits[i]; l.Shadow && l.Exceeded {
			m.of(l.Dimension, d.Tier).shadow.Inc()
		}
	}
}

// observe records n decisions that took d each. The trace id, if there is one, becomes an
// exemplar.
func (m *metrics) observe(route pb.Route, d time.Duration, n int, trace string) {
	if route <= pb.Route_ROUTE_UNSPECIFIED || int(route) >= len(m.durations) {
		return
	}
	if e, ok := m.durations[route].(prometheus.ExemplarObserver); ok && trace != "" && n > 0 {
		e.ObserveWithExemplar(float64(d)/1e9, prometheus.Labels{"trace_id": trace})
		n--
	}
	for range n {
		m.durations[route].Observe(float64(d) / 1e9)
	}
}

// counted counts an answer to hits.
func (m *metrics) counted(d *limiter.CountResult) {
	result := countedWithin
	switch {
	case d.Full:
		result = countedFullUp
	case d.Over:
		result = countedOver
	}
	m.counts[result].Inc()
}

// routeName is the name of a route in labels: local.
func routeName(r pb.Route) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "ROUTE_"))
}

func (m *metrics) settled(d *limiter.Decision, err error) {
	s := settling(d.Status.String())
	switch {
	case err == nil:
	case errors.Is(err, limiter.ErrUnknownReservation):
		s = settledUnknown
	case errors.Is(err, limiter.ErrConflict):
		s = settledConflict
	default:
		s = settledFailed
	}
	if c := m.done[s]; c != nil {
		c.Inc()
	}
	if err != nil || d.Status != limiter.Settled {
		return
	}
	for i := len(d.Limits) - 1; i >= 0; i-- { // the most specific level's
		if l := &d.Limits[i]; l.Dimension == limiter.Tokens && !l.Exceeded {
			m.delta.Observe(float64(l.Reserved - l.Cost))
			return
		}
	}
}

func (m *metrics) rejected(err error) {
	var field *limiter.FieldError
	if !errors.As(err, &field) {
		return
	}
	name, _, _ := strings.Cut(field.Field, ".") // costs.images -> costs
	c := m.invalid[name]
	if c == nil {
		c = m.invalid["other"]
	}
	c.Inc()
}
