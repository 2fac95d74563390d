// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/buildinfo"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/tracing"
)

// traceFlushTimeout bounds how long a shutdown waits for the collector.
const traceFlushTimeout = 2 * time.Second

// NewTracer returns a tracer with valid settings, or nil if they name no collector. The
// caller must CloseTracer it.
func NewTracer(c config.Tracing, service, instance string, log *slog.Logger, reg prometheus.Registerer) (*tracing.Tracer, error) {
	if c.Endpoint == "" {
		return nil, nil
	}
	ratio, err := c.SampleRatio()
	if err != nil {
		return nil, err
	}
	return tracing.New(tracing.Options{
		Endpoint: c.Endpoint, Sample: ratio, Keys: c.Keys, Service: service, Instance: instance, Version: buildinfo.Read().Version,
		Registry: reg, Logger: log,
	})
}

// CloseTracer sends the spans that wait, in bounded time. What is not sent is dropped.
func CloseTracer(t *tracing.Tracer, log *slog.Logger) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceFlushTimeout)
	defer cancel()
	if err := t.Close(ctx); err != nil {
		log.Warn("spans not sent before shutdown", "timeout", traceFlushTimeout, "error", err)
	}
}

// openTracer creates the tracer of the node, if there is a collector.
func (n *Node) openTracer() (err error) {
	if n.tracer, err = NewTracer(n.config.Tracing, "bucketring", n.config.Name, n.log, n.registry); err != nil || n.tracer == nil {
		return err
	}
	n.cleanups.push("send spans", func() error {
		CloseTracer(n.tracer, n.log)
		return nil
	})
	return nil
}
