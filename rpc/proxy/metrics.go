// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Why an upstream gave no answer.
const (
	failedUnreachable = "unreachable" // it never had the whole request
	failedBroke       = "broke"
	failedTimeout     = "timeout"
	failedLeft        = "left" // the caller did not wait, or the proxy was shut down
)

type metrics struct {
	passed, refused prometheus.Counter
	failures        *prometheus.CounterVec
}

// newMetrics registers them, unless reg is nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	unmetered := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_proxy_unmetered_total",
		Help: "Requests to endpoints that are not metered, by whether they were passed on.",
	}, []string{"result"})
	m := &metrics{
		passed: unmetered.WithLabelValues("passed"), refused: unmetered.WithLabelValues("refused"),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_proxy_upstream_failures_total",
			Help: "Requests to which the model server gave no answer.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{failedUnreachable, failedBroke, failedTimeout, failedLeft} {
		m.failures.WithLabelValues(reason)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{unmetered, m.failures} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
