// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/rpc/client"
)

func newProxy(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Put a model server under the limits of the nodes",
		Long: `Stand in front of a model server that speaks as OpenAI's or Anthropic's do, such as
vLLM. Each call is reserved, sent on with the output that was granted as its bound,
and charged what the answer says it used, streams included. One that is denied gets
the 429 that the caller's SDK understands.

Who calls is said by --identity, and nobody is trusted unless it says so: bearer looks
API keys up in the policy (see "bucketring policy hash-key"), jwt:CLAIM checks signed
tokens, and header:NAME believes a gateway in front.

What is not metered passes untouched, and without asking who calls: --pass safe lets
only through what runs no model.

Every setting is a flag, an environment variable (BUCKETRING_PROXY_UPSTREAM for
--upstream) and a key of the file given with --config. A node can be the proxy
itself: see --proxy-listen of "bucketring serve".`,
		Example: `  bucketring proxy --upstream http://127.0.0.1:8000 --identity bearer --policy policy.yaml
  bucketring proxy --upstream http://127.0.0.1:8000 --identity header:X-Tenant --servers node1,node2 --insecure
  bucketring proxy --upstream http://127.0.0.1:8000 --identity jwt:sub --jwt-keys jwks.json --jwt-audience models --when-gone drain`,
		Args: arguments(),
	}
	config.AddStandaloneFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, _, err := config.LoadStandalone(cmd.Flags(), s.lookupEnv)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			return misused(cmd, err, proxyAdvice(c))
		}
		return s.runProxy(cmd.Context(), c, s.logger(c.LogFormat, c.LogLevel))
	}
	return cmd
}

// proxyAdvice completes a command line that says too little.
func proxyAdvice(c *config.Standalone) string {
	if c == nil || c.Proxy.Upstream != "" && c.Proxy.Identity != "" {
		return ""
	}
	return "bucketring proxy --upstream http://127.0.0.1:8000 --identity bearer --policy policy.yaml"
}

// runProxy serves until a signal ends it.
func (s *streams) runProxy(ctx context.Context, c *config.Standalone, log *slog.Logger) error {
	policies, err := source.New(source.Options{Path: c.Policy, Catalog: limiter.NewCatalog(), Logger: log})
	if err != nil {
		return failed(err, "")
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p, err := node.NewProxy(c.Proxy, node.ProxyOptions{
		Policy: policies.Current, Logger: log, Registry: registry,
		Nodes: client.Options{Addrs: c.Servers, Insecure: c.Insecure},
	})
	if err != nil {
		return failed(err, "bucketring proxy --help")
	}
	defer func() { _ = p.Close() }() // Finish has said what is lost

	listener, admin, err := listenTwice(c.Listen, c.Admin)
	if err != nil {
		return failed(err, "is another proxy running here? stop it, or give this one other addresses with --listen and --admin")
	}
	ctx, stop := onSignals(ctx, func() {
		if err := errors.Join(policies.Reload(), p.Reload()); err != nil {
			log.Error("not reloaded", "error", err)
		}
	})
	defer stop()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	group, work := errgroup.WithContext(work)
	health := &http.Server{
		Handler: adminHandler(ctx, p, registry), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	group.Go(func() error { return p.Serve(listener) })
	group.Go(func() error {
		if err := health.Serve(admin); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve health: %w", err)
		}
		return nil
	})
	group.Go(func() error { return policies.Run(work) })
	log.Info("ready", "proxy", listener.Addr().String(), "upstream", c.Proxy.Upstream, "servers", c.Servers, "admin", admin.Addr().String())
	if s.errTTY && c.LogFormat != "json" {
		s.note("  proxy    http://%s -> %s\n  ready    http://%s/readyz\n  metrics  http://%[3]s/metrics\n", listener.Addr(), c.Proxy.Upstream, admin.Addr())
	}
	select {
	case <-ctx.Done():
	case <-work.Done(): // a part failed
	}
	log.Info("shutting down", "drain_delay", c.DrainDelay, "timeout", c.ShutdownTimeout)
	time.Sleep(c.DrainDelay)
	finishing, cancel := context.WithTimeout(context.Background(), c.ShutdownTimeout)
	defer cancel()
	err = errors.Join(p.Drain(finishing), health.Close())
	stopWork()
	return errors.Join(err, group.Wait())
}

func listenTwice(first, second string) (a, b net.Listener, err error) {
	if a, err = net.Listen("tcp", first); err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	if b, err = net.Listen("tcp", second); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("listen for health: %w", err), a.Close())
	}
	return a, b, nil
}

// adminHandler answers for the proxy itself, at an address of its own: every
// path of the proxy's is the model server's.
func adminHandler(ctx context.Context, p *node.Proxy, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		status := p.Client().Status()
		switch {
		case ctx.Err() != nil:
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
		case !status.Followed:
			http.Error(w, "no node of the cluster answers", http.StatusServiceUnavailable)
		default:
			_, _ = fmt.Fprintln(w, "ready")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}))
	return mux
}
