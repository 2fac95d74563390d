// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/rpc/client"
)

func newProxy(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Run a proxy that limits the calls of a model server",
		Long: `Run a proxy in front of a model server with the OpenAI or Anthropic API, such as vLLM.
The proxy reserves each call, forwards it with the granted output as its maximum, and
charges the usage that the answer reports, also for streams. A denied call gets a 429
in the format that the caller's SDK expects.

--identity says how callers are identified: bearer looks up API keys in the policy
(see "bucketring policy hash-key"), jwt:CLAIM verifies signed tokens, and header:NAME
trusts a header that a gateway sets. There is no default.

A request is metered, forwarded as it is, or rejected. Calls to chat, completions,
embeddings, responses and messages are metered. --pass says what is forwarded without
being metered, and from anyone, also without an API key:

  --pass safe                           what runs no model, such as GET /v1/models (the default)
  --pass "safe,POST /tokenize,/files/*" that, POST /tokenize, and all below /files/
  --pass all                            everything that is not metered: anyone may then run
                                        models at other endpoints free of charge

All else is rejected with 403. Use --pass for endpoints that run no model, and --meter for
those that do, such as POST /v1/rerank: they are metered by count.

Where the policy lets calls wait, a call that a limit denies waits in line until it fits:
its caller sees a slower answer instead of a 429. --max-wait bounds that. The header
X-Bucketring-Priority of a request names its class: interactive, standard or batch.

Every setting is a flag, an environment variable (BUCKETRING_PROXY_UPSTREAM for
--upstream) and a key of the file given with --config. A node can run the proxy itself:
see --proxy-listen of "bucketring serve".`,
		Example: `  bucketring proxy --upstream http://127.0.0.1:8000 --identity bearer --policy policy.yaml
  bucketring proxy --upstream http://127.0.0.1:8000 --identity header:X-Tenant --servers node1,node2 --insecure
  bucketring proxy --upstream http://127.0.0.1:8000 --identity bearer --policy policy.yaml --servers node1,node2 --servers-tls --servers-ca-file ca.crt --servers-cert-file proxy.crt --servers-key-file proxy.key
  bucketring proxy --upstream http://127.0.0.1:8000 --identity jwt:sub --jwt-keys jwks.json --jwt-audience models --on-disconnect drain
  bucketring proxy --upstream http://127.0.0.1:8000 --identity bearer --policy policy.yaml --meter "POST /v1/rerank,POST /v1/audio/*"
  bucketring proxy --upstream http://127.0.0.1:8000 --identity bearer --policy policy.yaml --pass "safe,POST /tokenize,/files/*"
  bucketring proxy --upstream http://127.0.0.1:8000 --identity bearer --policy policy.yaml --max-wait 5s`,
		Args: exactArgs(),
	}
	config.AddStandaloneFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, _, err := config.LoadStandalone(cmd.Flags(), s.lookupEnv)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			return usageError(cmd, err, proxyHint(c))
		}
		log := s.logger(c.LogFormat, c.LogLevel)
		s.warnEnvironment(log)
		return s.runProxy(cmd.Context(), c, log)
	}
	return cmd
}

// proxyHint returns a hint for a command line without required flags.
func proxyHint(c *config.StandaloneProxy) string {
	if c == nil || c.Proxy.Upstream != "" && c.Proxy.Identity != "" {
		return ""
	}
	return "bucketring proxy --upstream http://127.0.0.1:8000 --identity bearer --policy policy.yaml"
}

// runProxy serves until a signal arrives.
func (s *streams) runProxy(ctx context.Context, c *config.StandaloneProxy, log *slog.Logger) error {
	policies, err := source.New(source.Options{
		Path: c.Policy, Catalog: limiter.NewCatalog(), Logger: log, Directory: c.PolicyData, Insecure: c.Insecure,
		Interval: c.PolicySource.Interval, TokenFile: c.PolicySource.TokenFile, TLS: node.PolicyTLS(c.PolicySource),
	})
	if err != nil {
		return errorWithHint(err, "")
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	secure, err := node.OpenProxyTLS(c, registry, log)
	if err != nil {
		return errorWithHint(err, "bucketring certs --help")
	}
	tracer, err := node.NewTracer(c.Tracing, "bucketring-proxy", hostname(), log, registry)
	if err != nil {
		return errorWithHint(err, "bucketring proxy --help")
	}
	defer node.CloseTracer(tracer, log)
	p, err := node.NewProxy(c.Proxy, node.ProxyOptions{
		Policy: policies.Current, Logger: log, Registry: registry, Tracer: tracer,
		Nodes: secure.Nodes(client.Options{Addrs: c.Servers, Insecure: c.Insecure, TokenFile: c.NodeTokenFile}),
	})
	if err != nil {
		return errorWithHint(err, "bucketring proxy --help")
	}
	defer func() { _ = p.Close() }() // Finish has reported what is lost

	listener, admin, err := listenBoth(c.Listen, c.Admin)
	if err != nil {
		return errorWithHint(err, "stop the process that listens there, or give this proxy other addresses with --listen and --admin")
	}
	connections := node.NewConnectionLimit(node.DefaultMaxConnections, 3, registry, log) // each call has two
	listener = connections.Limit(listener, "proxy", nil, listenlimit.HTTPRefusal())
	admin = connections.Limit(admin, "admin", nil, listenlimit.HTTPRefusal())
	listener, admin = secure.Listeners(listener, admin)
	ctx, stop := onSignals(ctx, func() {
		if err := errors.Join(policies.Reload(), p.Reload()); err != nil {
			log.Error("policy or keys of tokens not reloaded", "error", err)
		}
	})
	defer stop()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	group, work := errgroup.WithContext(work)
	health := &http.Server{
		Handler: adminHandler(ctx, p, registry), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10, ConnState: listenlimit.HTTPState,
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
	group.Go(func() error { return p.WatchNodes(work) })
	log.Info("ready", "proxy", listener.Addr().String(), "upstream", c.Proxy.Upstream, "servers", c.Servers, "admin", admin.Addr().String())
	if s.errTTY && c.LogFormat != "json" {
		s.notef("  proxy    %[1]s://%[2]s -> %[3]s\n  ready    %[1]s://%[4]s/readyz\n  metrics  %[1]s://%[4]s/metrics\n", secure.Scheme(), listener.Addr(), c.Proxy.Upstream, admin.Addr())
	}
	select {
	case <-ctx.Done():
	case <-work.Done(): // a server failed
	}
	log.Info("shutting down", "drain_delay", c.DrainDelay, "timeout", c.ShutdownTimeout)
	time.Sleep(c.DrainDelay)
	finishing, cancel := context.WithTimeout(context.Background(), c.ShutdownTimeout)
	defer cancel()
	err = errors.Join(p.Drain(finishing), health.Close())
	stopWork()
	return errors.Join(err, group.Wait())
}

// hostname is the name of a proxy in its spans.
func hostname() string {
	name, _ := os.Hostname()
	return name
}

func listenBoth(first, second string) (a, b net.Listener, err error) {
	if a, err = net.Listen("tcp", first); err != nil {
		return nil, nil, fmt.Errorf("listen: %w", err)
	}
	if b, err = net.Listen("tcp", second); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("listen for health: %w", err), a.Close())
	}
	return a, b, nil
}

// adminHandler serves health and metrics. It has its own address, because all paths at
// the address of the proxy belong to the model server.
func adminHandler(ctx context.Context, p *node.Proxy, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		err := p.NodesAnswer()
		switch {
		case ctx.Err() != nil:
			http.Error(w, "shutting down", http.StatusServiceUnavailable)
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		default:
			_, _ = fmt.Fprintln(w, "ready")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}))
	return mux
}
