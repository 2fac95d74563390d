// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxLabelledModels bounds the label model. Callers choose the names of models, so those
// that come later are counted together.
const maxLabelledModels = 32

// otherModels is the label of the models that are counted together.
const otherModels = "other"

// accuracy counts the input tokens that were predicted, and those that were reported for
// the same calls. It is safe for concurrent use, and counting takes no lock.
type accuracy struct {
	estimated, reported *prometheus.CounterVec // by model
	ratio               prometheus.Histogram

	mu     sync.Mutex // held to add a model
	models atomic.Pointer[map[string]accuracyOfModel]
}

type accuracyOfModel struct{ estimated, reported prometheus.Counter }

func newAccuracy() *accuracy {
	a := &accuracy{
		estimated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_estimated_input_tokens_total",
			Help: "Input tokens that were estimated before calls whose input was then reported, by model: the first 32 models, and other.",
		}, []string{"model"}),
		reported: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_middleware_reported_input_tokens_total",
			Help: "Input tokens that were reported for the calls of bucketring_middleware_estimated_input_tokens_total.",
		}, []string{"model"}),
		ratio: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "bucketring_middleware_input_estimate_ratio",
			Help:    "Estimated input tokens of a call, divided by those that were reported.",
			Buckets: []float64{0.25, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 2, 3, 5, 10},
		}),
	}
	return a
}

// register registers the metrics, or replaces them by those that another middleware has
// registered already.
func (a *accuracy) register(reg prometheus.Registerer) error {
	if err := errors.Join(register(reg, &a.estimated), register(reg, &a.reported), register(reg, &a.ratio)); err != nil {
		return err
	}
	a.labelled(otherModels)
	return nil
}

// add counts a call with a prompt.
func (a *accuracy) add(model string, estimated, reported int64) {
	if estimated <= 0 || reported <= 0 {
		return
	}
	m := a.of(model)
	m.estimated.Add(float64(estimated))
	m.reported.Add(float64(reported))
	a.ratio.Observe(float64(estimated) / float64(reported))
}

// of returns the counters of a model.
func (a *accuracy) of(model string) accuracyOfModel {
	if models := a.models.Load(); models != nil {
		if m, ok := (*models)[model]; ok {
			return m
		}
		if len(*models) > maxLabelledModels {
			return (*models)[otherModels]
		}
	}
	return a.addModel(model)
}

// addModel adds a model with its label, if there is room.
func (a *accuracy) addModel(model string) accuracyOfModel {
	a.mu.Lock()
	defer a.mu.Unlock()
	models := map[string]accuracyOfModel{otherModels: a.labelled(otherModels)}
	if known := a.models.Load(); known != nil {
		maps.Copy(models, *known)
	}
	if _, ok := models[model]; !ok {
		if len(models) > maxLabelledModels {
			return models[otherModels]
		}
		models[model] = a.labelled(model)
	}
	a.models.Store(&models)
	return models[model]
}

func (a *accuracy) labelled(model string) accuracyOfModel {
	return accuracyOfModel{a.estimated.WithLabelValues(model), a.reported.WithLabelValues(model)}
}
