// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label reason: why a request got no complete response from the upstream.
const (
	failedUnreachable = "unreachable"     // the upstream did not receive the whole request
	failedConnection  = "connection_lost" // it received the request and closed the connection
	failedTimeout     = "timeout"
	failedInterrupted = "interrupted" // the response broke off
	failedCanceled    = "canceled"    // the caller disconnected, or the proxy shut down
)

type metrics struct {
	passed, rejected prometheus.Counter
	failures         *prometheus.CounterVec
}

// newMetrics registers the metrics, unless reg is nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	unmetered := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_proxy_unmetered_total",
		Help: "Requests that are not metered, by result: passed to the model server, or rejected.",
	}, []string{"result"})
	m := &metrics{
		passed: unmetered.WithLabelValues("passed"), rejected: unmetered.WithLabelValues("rejected"),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_proxy_upstream_failures_total",
			Help: "Requests that the model server did not answer, or whose answer broke off, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{failedUnreachable, failedConnection, failedTimeout, failedInterrupted, failedCanceled} {
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
