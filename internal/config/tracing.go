// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strconv"

	"github.com/bucketring/bucketring/internal/tracing"
)

// Tracing has the settings of traces, of a node or of a proxy that runs alone.
type Tracing struct {
	Endpoint string `key:"otlp" help:"collector of OpenTelemetry traces: grpc://host:4317 or http://host:4318, with TLS grpcs:// or https://; empty means no traces"`
	Sample   string `key:"otlp_sample" default:"0.01" help:"part of the calls without a traced parent that are traced, from 0 to 1; a call whose traceparent says that it is traced always is"`
	Keys     bool   `key:"otlp_keys" help:"put the keys that are charged into spans"`
}

// SampleRatio returns the part of the calls that are traced.
func (c *Tracing) SampleRatio() (float64, error) {
	ratio, err := strconv.ParseFloat(c.Sample, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		return 0, fmt.Errorf("must be a number from 0 to 1, such as 0.01, got %q", c.Sample)
	}
	return ratio, nil
}

func (c *Tracing) validate(p *problems) {
	if _, err := c.SampleRatio(); err != nil {
		p.add("otlp_sample", "%w", err)
	}
	if c.Endpoint == "" {
		return
	}
	if _, err := tracing.ParseEndpoint(c.Endpoint); err != nil {
		p.add("otlp", "%w", err)
	}
}
