// SPDX-License-Identifier: Apache-2.0

package node

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/bucketring/bucketring/internal/buildinfo"
)

// newRegistry returns a registry for this node with the metrics of the process and
// the build.
func newRegistry() *prometheus.Registry {
	build := buildinfo.Read()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "bucketring_build_info",
		Help: "Always 1; the labels identify the build.",
		ConstLabels: prometheus.Labels{
			"version": build.Version, "commit": build.Commit, "modified": strconv.FormatBool(build.Modified), "go": build.Go,
		},
	})
	info.Set(1)
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info,
	)
	return reg
}

func boolGauge(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
