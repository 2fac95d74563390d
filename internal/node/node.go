// SPDX-License-Identifier: Apache-2.0

// Package node puts one bucketring node together and runs it: the engine, the
// policy that drives it, the gRPC and HTTP front doors, and the file that keeps
// usage across restarts.
//
// [New] does all that can fail, so that a bad policy, a port in use or a
// corrupt snapshot is an error before anything runs. [Node.Run] serves until
// its context is done, and then shuts down in bounded time: it turns unready,
// waits for the drain delay, lets calls in progress finish, and saves its state.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/server"
)

// Options configure a [Node].
type Options struct {
	// Config is taken as valid: see [config.Config.Validate].
	Config *config.Config
	Logger *slog.Logger // nil: discard
	// OnReady is called once, from Run, when the node answers.
	OnReady func(*Node)
	// Now reads both clocks at once; nil: the machine's.
	Now func() limiter.Time
}

// Node is one member. Its methods are safe for concurrent use, but Run may be
// called once.
type Node struct {
	config  *config.Config
	log     *slog.Logger
	onReady func(*Node)
	now     func() limiter.Time
	started time.Time

	engine   *limiter.Engine
	policies *source.Store
	keeper   *keeper // nil: memory only
	registry *prometheus.Registry

	health       *health.Server
	grpc         *grpc.Server
	http         *http.Server
	grpcListener net.Listener
	httpListener net.Listener

	phase    atomic.Int32
	cleanups cleanups
}

// The phases of a node.
const (
	starting int32 = iota
	serving
	draining
)

// New makes a node that listens but does not answer yet. The caller must Run
// or Close it.
func New(o Options) (*Node, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = clock()
	}
	n := &Node{
		config: o.Config, log: o.Logger, onReady: o.OnReady, now: o.Now, started: time.Now(),
		registry: newRegistry(), cleanups: cleanups{log: o.Logger},
	}
	if err := n.assemble(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) assemble() (err error) {
	c := n.config
	catalog := limiter.NewCatalog()
	n.engine = limiter.New(limiter.Options{
		Catalog: catalog, MaxKeys: c.MaxKeys, MaxKeysPerRoot: c.MaxKeysPerRoot, MaxIDs: c.MaxIDs,
	})
	if n.policies, err = source.New(source.Options{Path: c.Policy, Catalog: catalog, Logger: n.log}); err != nil {
		return err
	}
	if c.Data != "" {
		if n.keeper, err = newKeeper(c.Data, n.engine, n.now, n.log, n.registry); err != nil {
			return err
		}
		n.cleanups.push("release data directory", n.keeper.close)
		if err := n.keeper.restore(); err != nil {
			return err
		}
	}
	n.registry.MustRegister(newPolicyCollector(n.policies.Status))

	service := server.New(server.Options{
		Engine:   n.engine,
		Policy:   func() server.Policy { return n.policies.Current() },
		Now:      n.now,
		Name:     c.Name,
		Registry: n.registry,
	})
	n.health = server.NewHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	n.grpc = server.NewGRPC(service, server.GRPCOptions{Health: n.health, Logger: n.log})
	n.http = httpapi.NewServer(httpapi.New(httpapi.Options{
		Service: service,
		Ready:   n.Ready,
		Metrics: promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{Registry: n.registry}),
		Status:  func() any { return n.Status() },
		Logger:  n.log,
	}))
	n.http.ErrorLog = slog.NewLogLogger(n.log.Handler(), slog.LevelWarn)

	if n.grpcListener, err = n.listen(c.GRPC); err != nil {
		return fmt.Errorf("listen for gRPC: %w", err)
	}
	if n.httpListener, err = n.listen(c.HTTP); err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	return nil
}

func (n *Node) listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	n.cleanups.push("close "+address, func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) { // its server closes it, too
			return err
		}
		return nil
	})
	return l, nil
}

// clock reads the machine's two clocks at once; its monotonic one begins now.
func clock() func() limiter.Time {
	base := time.Now()
	return func() limiter.Time {
		t := time.Now()
		return limiter.Time{Mono: int64(t.Sub(base)), Wall: t.UnixNano()}
	}
}

// Run answers until ctx is done or a part of the node fails, and then shuts
// down. It returns nil after a shutdown in which nothing went wrong.
func (n *Node) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, work := errgroup.WithContext(work)
	if n.keeper != nil {
		n.cleanups.push("save state", n.keeper.save)
	}
	n.cleanups.push("stop background work", func() error {
		stop()
		return group.Wait()
	})
	if n.keeper != nil {
		if every := n.config.SnapshotEvery; every > 0 {
			group.Go(func() error { return n.keeper.run(work, every) })
		}
	}
	group.Go(func() error { return n.sweep(work) })
	group.Go(func() error { return n.policies.Run(work) })

	n.cleanups.push("finish calls in progress", n.stopServers)
	group.Go(func() error { return serve("gRPC", n.grpc.Serve(n.grpcListener), grpc.ErrServerStopped) })
	group.Go(func() error { return serve("HTTP", n.http.Serve(n.httpListener), http.ErrServerClosed) })

	n.cleanups.push("drain", n.drain)
	n.phase.Store(serving)
	n.health.SetServingStatus(server.HealthReady, healthpb.HealthCheckResponse_SERVING)
	n.log.Info("ready", "name", n.config.Name, "http", n.HTTPAddr(), "grpc", n.GRPCAddr())
	if n.onReady != nil {
		n.onReady(n)
	}

	select {
	case <-ctx.Done():
	case <-work.Done(): // a part failed
	}
	return n.Close()
}

// serve gives the end of a server a name, unless it was asked to end.
func serve(name string, err, asked error) error {
	if err == nil || errors.Is(err, asked) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", name, err)
}
