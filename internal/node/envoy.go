// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/rpc/envoy"
	"github.com/bucketring/bucketring/rpc/envoy/config"
	"github.com/bucketring/bucketring/rpc/envoy/xds"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/server"
)

// Names of Envoy's rate limit service in the gRPC health service. It is serving
// when the node is ready and has rules.
var (
	envoyHealth = rls.RateLimitService_ServiceDesc.ServiceName
	stockHealth = "ratelimit" // the name that envoyproxy/ratelimit uses
)

// envoyService is Envoy's rate limit service and its servers.
type envoyService struct {
	service  *envoy.Service
	files    *envoyRules  // nil: rules come from a control plane
	plane    *xds.Client  // nil: rules come from files
	listener net.Listener // nil: only the address of grpc
	grpc     *grpc.Server // for the listener

	httpListener net.Listener // nil: none
	http         *http.Server // for httpListener
}

// openEnvoy creates the service if it is configured. It loads rules from files;
// rules of a control plane arrive while the node runs.
func (n *Node) openEnvoy() (err error) {
	c := n.config
	if !c.Envoy() {
		return nil
	}
	e := &envoyService{}
	if e.service, err = envoy.New(envoy.Options{
		Counter: n.router, Policy: n.router,
		Shadow: c.EnvoyShadow, Headers: c.EnvoyHeaders, Body: c.EnvoyBody, Metadata: c.EnvoyMetadata, Prefix: c.EnvoyPrefix,
		Registry: n.registry, Admission: n.admission,
	}); err != nil {
		return err
	}
	set := func(c *config.Config) {
		e.service.SetRules(c)
		n.cluster.SetRules(rulesID(c))
	}
	onRules := func(c *config.Config) {
		set(c)
		n.updateHealth()
	}
	if c.EnvoyConfig != "" {
		e.files, err = openEnvoyRules(c.EnvoyConfig, n.log, set)
		if err != nil {
			return err
		}
		e.files.onRules = onRules
	} else if e.plane, err = xds.New(xds.Options{
		Address: c.EnvoyXDS, NodeID: c.EnvoyXDSNode, Credentials: n.planeCredentials, OnRules: onRules, Logger: n.log,
	}); err != nil {
		return err
	}
	if c.EnvoyListen != "" {
		if e.listener, err = n.listen("envoy", c.EnvoyListen, nil, nil); err != nil {
			return fmt.Errorf("listen on envoy_listen: %w", err)
		}
	}
	if c.EnvoyHTTP != "" {
		if e.httpListener, err = n.listen("envoy_http", c.EnvoyHTTP, nil, listenlimit.HTTPRefusal()); err != nil {
			return fmt.Errorf("listen on envoy_http: %w", err)
		}
	}
	n.envoy = e
	n.registry.MustRegister(newEnvoyCollector(e))
	return nil
}

// rulesID returns the first 64 bits of the digest of rules, which members gossip.
func rulesID(c *config.Config) cluster.ID {
	id, err := strconv.ParseUint(c.Digest()[:16], 16, 64)
	if err != nil {
		return 0 // impossible: a digest has hexadecimal digits
	}
	return cluster.ID(id)
}

// services returns the gRPC services besides RateLimiter.
func (n *Node) services() []server.UnaryService {
	if n.envoy == nil {
		return nil
	}
	return []server.UnaryService{n.envoy.service.GRPC()}
}

// openEnvoyServers creates the servers for envoy_listen and envoy_http.
func (n *Node) openEnvoyServers() {
	if n.envoy == nil {
		return
	}
	if n.envoy.httpListener != nil {
		n.envoy.http = httpapi.NewServer(httpapi.Protect(n.envoy.service.HTTP(n.Ready), n.rejections))
		n.envoy.http.ErrorLog = slog.NewLogLogger(n.log.Handler(), slog.LevelWarn)
	}
	if n.envoy.listener == nil {
		return
	}
	o := server.GRPCOptions{
		MaxConnectionAge: n.config.EnvoyConnectionAge, MaxConnectionAgeGrace: n.config.EnvoyConnectionGrace,
		Health: n.health, Logger: n.log, Streams: n.streams, Rejections: n.rejections, Services: n.services(),
	}
	o.Server = n.envoyCredentials()
	n.envoy.grpc = server.NewGRPC(nil, o)
}

// runEnvoy keeps the rules up to date until ctx is done.
func (n *Node) runEnvoy(ctx context.Context, group *errgroup.Group) {
	e := n.envoy
	if e == nil {
		return
	}
	group.Go(func() error {
		if e.plane != nil {
			return e.plane.Run(ctx)
		}
		e.files.Run(ctx)
		return nil
	})
}

// EnvoyAddr returns the address of envoy_listen with its real port, or "" if it is
// not set.
func (n *Node) EnvoyAddr() string {
	if n.envoy == nil || n.envoy.listener == nil {
		return ""
	}
	a := n.envoy.listener.Addr()
	if a.Network() == "unix" {
		return "unix:" + a.String()
	}
	return a.String()
}

// EnvoyHTTPAddr returns the address of envoy_http with its real port, or "" if it
// is not set.
func (n *Node) EnvoyHTTPAddr() string {
	if n.envoy == nil || n.envoy.httpListener == nil {
		return ""
	}
	return n.envoy.httpListener.Addr().String()
}

// reloadEnvoy reads rules from files again.
func (n *Node) reloadEnvoy() {
	if n.envoy == nil || n.envoy.files == nil {
		return
	}
	if err := n.envoy.files.Reload(); err != nil {
		n.envoy.files.logFailure(err)
	}
}

// EnvoyStatus is the status of Envoy's rate limit service.
type EnvoyStatus struct {
	Listen  string            `json:"listen,omitempty"` // envoy_listen
	HTTP    string            `json:"http,omitempty"`   // envoy_http
	Domains []string          `json:"domains,omitempty"`
	Rules   int               `json:"rules"`
	Digest  string            `json:"digest,omitempty"`
	Files   *filewatch.Status `json:"files,omitempty"`
	Plane   *xds.Status       `json:"control_plane,omitempty"`
}

func (n *Node) envoyStatus() *EnvoyStatus {
	if n.envoy == nil {
		return nil
	}
	rules := n.envoy.service.Rules()
	s := &EnvoyStatus{Listen: n.EnvoyAddr(), HTTP: n.EnvoyHTTPAddr(), Domains: rules.Domains(), Rules: len(rules.Rules()), Digest: rules.Digest()}
	if f := n.envoy.files; f != nil {
		status, _ := f.Status()
		s.Files = &status
	}
	if p := n.envoy.plane; p != nil {
		status := p.Status()
		s.Plane = &status
	}
	return s
}

// updateEnvoyHealthLocked updates the health of Envoy's rate limit service.
func (n *Node) updateEnvoyHealthLocked(ready bool) {
	if n.envoy == nil {
		return
	}
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if ready && n.envoy.service.Rules() != nil {
		status = healthpb.HealthCheckResponse_SERVING
	}
	n.health.SetServingStatus(envoyHealth, status)
	n.health.SetServingStatus(stockHealth, status)
}

// envoyCollector exports the rules in force and the state of their updates.
type envoyCollector struct {
	envoy                            *envoyService
	info, rules, good, updates, link *prometheus.Desc
}

var _ prometheus.Collector = (*envoyCollector)(nil)

func newEnvoyCollector(e *envoyService) *envoyCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bucketring_envoy_"+name, help, labels, nil)
	}
	return &envoyCollector{
		envoy:   e,
		info:    desc("config_info", "Always 1; the label is the digest of the rules of Envoy's rate limit service in force.", "digest"),
		rules:   desc("config_rules", "Rules of Envoy's rate limit service in force."),
		good:    desc("config_last_update_successful", "1 if the last update of the rules succeeded, 0 if the latest rules of the files or the control plane are invalid."),
		updates: desc("config_updates_total", "Updates of the rules, by result.", "result"),
		link:    desc("control_plane_connected", "1 if the control plane is connected, 0 if not. Absent if rules come from files."),
	}
}

// Describe implements prometheus.Collector.
func (c *envoyCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.info, c.rules, c.good, c.updates, c.link} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *envoyCollector) Collect(ch chan<- prometheus.Metric) {
	rules := c.envoy.service.Rules()
	ch <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, rules.Digest())
	ch <- prometheus.MustNewConstMetric(c.rules, prometheus.GaugeValue, float64(len(rules.Rules())))
	var good bool
	var done, failed int64
	if f := c.envoy.files; f != nil {
		s, _ := f.Status()
		good, done, failed = s.LastError == "", s.Reloads, s.Failures
	} else {
		s := c.envoy.plane.Status()
		good, done, failed = s.LastError == "" && s.Version != "", s.Accepted, s.Rejected
		ch <- prometheus.MustNewConstMetric(c.link, prometheus.GaugeValue, boolGauge(s.Connected))
	}
	ch <- prometheus.MustNewConstMetric(c.good, prometheus.GaugeValue, boolGauge(good))
	ch <- prometheus.MustNewConstMetric(c.updates, prometheus.CounterValue, float64(done), "success")
	ch <- prometheus.MustNewConstMetric(c.updates, prometheus.CounterValue, float64(failed), "failure")
}
