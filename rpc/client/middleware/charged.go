// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/text"
)

// The values of the labels tier and model are bounded, because callers choose models.
const (
	maxLabelValues = 50
	maxLabelBytes  = 100
	otherLabel     = "other"
)

// chargedMetrics count what calls were charged, by tier and model.
type chargedMetrics struct {
	tokens, dollars *prometheus.CounterVec
	tiers, models   labelValues
	counters        sync.Map // of tierAndModel to *chargedCounters
}

type tierAndModel struct{ tier, model string }

type chargedCounters struct {
	input, cached, output prometheus.Counter // input without cached
	dollars               prometheus.Counter
}

func newChargedMetrics() *chargedMetrics {
	return &chargedMetrics{
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_charged_tokens_total",
			Help: "Tokens that calls were charged, by tier, model and kind: input, cached_input, output. After 50 tiers or models, further ones are \"other\".",
		}, []string{"tier", "model", "kind"}),
		dollars: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_charged_dollars_total",
			Help: "Dollars that calls were charged, by tier and model, as far as the tier limits spend.",
		}, []string{"tier", "model"}),
	}
}

func (m *chargedMetrics) register(reg prometheus.Registerer) error {
	err := errors.Join(register(reg, &m.tokens), register(reg, &m.dollars))
	if err == nil {
		m.countersOf(tierAndModel{otherLabel, otherLabel})
	}
	return err
}

// add counts the charge of a call, in tokens and microdollars. Calls that were charged
// nothing are not counted, so that names of models that do not exist take no label.
func (m *chargedMetrics) add(tier, model string, u *ChargedUsage, spend int64) {
	if u.InputTokens == 0 && u.OutputTokens == 0 && spend == 0 {
		return
	}
	key := tierAndModel{tier, model}
	c, ok := m.counters.Load(key)
	if !ok {
		c = m.countersOf(tierAndModel{m.tiers.bound(tier), m.models.bound(model)})
	}
	counters := c.(*chargedCounters)
	counters.input.Add(float64(u.InputTokens - u.CachedInputTokens))
	counters.cached.Add(float64(u.CachedInputTokens))
	counters.output.Add(float64(u.OutputTokens))
	counters.dollars.Add(float64(spend) / 1e6)
}

func (m *chargedMetrics) countersOf(key tierAndModel) *chargedCounters {
	if c, ok := m.counters.Load(key); ok {
		return c.(*chargedCounters)
	}
	c, _ := m.counters.LoadOrStore(key, &chargedCounters{
		input:   m.tokens.WithLabelValues(key.tier, key.model, "input"),
		cached:  m.tokens.WithLabelValues(key.tier, key.model, "cached_input"),
		output:  m.tokens.WithLabelValues(key.tier, key.model, "output"),
		dollars: m.dollars.WithLabelValues(key.tier, key.model),
	})
	return c.(*chargedCounters)
}

// labelValues are the first values of a label.
type labelValues struct {
	mu     sync.Mutex
	values map[string]bool // at most maxLabelValues
}

// bound returns the label for a value: its beginning, or "other".
func (l *labelValues) bound(value string) string {
	value = text.Shorten(value, maxLabelBytes)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.values[value] {
		return value
	}
	if len(l.values) == maxLabelValues {
		return otherLabel
	}
	if l.values == nil {
		l.values = map[string]bool{}
	}
	l.values[value] = true
	return value
}
