// SPDX-License-Identifier: Apache-2.0

// Package node puts one bucketring node together and runs it: the engine, the
// policy that drives it, the membership that says who owns what, the router that
// takes calls there, the gRPC and HTTP front doors, and the file that keeps usage
// across restarts. A node alone is a cluster of one.
//
// [New] does all that can fail, so that a bad policy, a port in use or a
// corrupt snapshot is an error before anything runs. [Node.Run] serves until
// its context is done, and then shuts down in bounded time: it turns unready,
// leaves the ring, waits for the drain delay, tells owners what it decided for
// them, lets calls in progress finish, says goodbye, and saves its state.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/peer"
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
	// Await turns the node ready only when the ring names so many members, or
	// when a while has passed: partitions that move start empty. 0: as soon as it
	// names this one.
	Await int
	// Hasty shuts down without telling the other members, which then miss this
	// one for some seconds, and says little of it. It is for members that all end
	// together.
	Hasty bool
}

// Node is one member. Its methods are safe for concurrent use, but Run may be
// called once.
type Node struct {
	config  *config.Config
	log     *slog.Logger
	onReady func(*Node)
	now     func() limiter.Time
	started time.Time
	hasty   bool
	expect  int // members

	engine   *limiter.Engine
	standIn  *limiter.Engine // decides when an owner cannot be reached
	policies *source.Store
	keeper   *keeper // nil: memory only
	registry *prometheus.Registry

	boot    cluster.Boot
	keys    *clusterKeys
	cluster *cluster.Cluster
	router  *peer.Router
	applied applied
	envoy   *envoyDoor // nil: off

	health       *health.Server
	grpc         *grpc.Server
	http         *http.Server
	grpcListener net.Listener
	httpListener net.Listener

	proxy         *Proxy // nil: none
	proxyListener net.Listener

	phase    atomic.Int32
	showing  sync.Mutex // held to show the phase
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
	now := time.Now()
	n := &Node{
		config: o.Config, log: o.Logger, onReady: o.OnReady, now: o.Now, started: now, hasty: o.Hasty, expect: o.Await,
		registry: newRegistry(), boot: newBoot(now), cleanups: cleanups{log: o.Logger},
	}
	if n.hasty {
		n.cleanups.level = slog.LevelDebug
	}
	if err := n.assemble(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) assemble() error {
	if err := n.openState(); err != nil {
		return err
	}
	if err := n.openListeners(); err != nil {
		return err
	}
	if err := n.openCluster(); err != nil {
		return err
	}
	if err := n.openEnvoy(); err != nil {
		return err
	}
	n.openDoors()
	return n.openProxy()
}

// openState makes what decides, with the usage that was kept.
func (n *Node) openState() (err error) {
	c := n.config
	catalog := limiter.NewCatalog()
	n.engine = limiter.New(limiter.Options{
		Catalog: catalog, MaxKeys: c.MaxKeys, MaxKeysPerRoot: c.MaxKeysPerRoot, MaxIDs: c.MaxIDs,
	})
	if n.policies, err = source.New(source.Options{
		Path: c.Policy, Catalog: catalog, Logger: n.log,
		OnChange: func(p *policy.Policy) { n.cluster.SetPolicy(cluster.ID(p.Version())) },
	}); err != nil {
		return err
	}
	n.registry.MustRegister(newPolicyCollector(n.policies.Status))
	if c.Data == "" {
		return nil
	}
	if n.keeper, err = newKeeper(c.Data, n.engine, n.now, n.log, n.registry); err != nil {
		return err
	}
	n.cleanups.push("release data directory", n.keeper.close)
	return n.keeper.restore()
}

func (n *Node) openListeners() (err error) {
	if n.grpcListener, err = n.listen(n.config.GRPC); err != nil {
		return fmt.Errorf("listen for gRPC: %w", err)
	}
	if n.httpListener, err = n.listen(n.config.HTTP); err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	return nil
}

// openCluster makes what takes calls to their owners.
func (n *Node) openCluster() (err error) {
	if n.keys, err = readClusterKeys(n.config.ClusterKeyFile); err != nil {
		return err
	}
	if n.cluster, err = n.newCluster(); err != nil {
		return err
	}
	local := server.New(server.Options{
		Engine:   n.engine,
		Policy:   func() server.Policy { return n.policies.Current() },
		Now:      n.now,
		Name:     n.config.Name,
		Registry: n.registry,
	})
	n.router, err = peer.New(peer.Options{
		Name: n.config.Name, Boot: uint64(n.boot.ID),
		Local: local, Fallback: n.newFallback(local),
		Keys: n.keys.current, Timeout: n.config.ForwardTimeout,
		Dial:   []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		Logger: n.log, Registry: n.registry,
	})
	return err
}

// openDoors makes the servers, which do not serve yet.
func (n *Node) openDoors() {
	n.health = server.NewHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	n.grpc = server.NewGRPC(n.router, server.GRPCOptions{Health: n.health, Logger: n.log, Services: n.services()})
	n.openEnvoyDoor()
	pb.RegisterPeerServer(n.grpc, n.router.Peer())
	n.http = httpapi.NewServer(httpapi.New(httpapi.Options{
		Service:    n.router,
		Ready:      n.Ready,
		Metrics:    promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{Registry: n.registry}),
		Status:     func() any { return n.Status() },
		StatusPage: n.statusPage,
		Logger:     n.log,
	}))
	n.http.ErrorLog = slog.NewLogLogger(n.log.Handler(), slog.LevelWarn)
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
	gossip := startGossip(n.cluster)
	n.cleanups.push("leave the cluster", func() error { return n.leaveCluster(gossip) })
	n.cleanups.push("stop background work", func() error {
		stop()
		return group.Wait()
	})
	group.Go(func() error { return gossip.watch(work) })
	group.Go(func() error { return n.router.Run(work) })
	group.Go(func() error { return n.follow(work) })
	if every := n.config.SnapshotEvery; n.keeper != nil && every > 0 {
		group.Go(func() error { return n.keeper.run(work, every) })
	}
	group.Go(func() error { return n.sweep(work) })
	group.Go(func() error { return n.policies.Run(work) })
	n.runEnvoy(work, group)

	n.cleanups.push("finish calls in progress", n.stopServers)
	group.Go(func() error { return serve("gRPC", n.grpc.Serve(n.grpcListener), grpc.ErrServerStopped) })
	group.Go(func() error { return serve("HTTP", n.http.Serve(n.httpListener), http.ErrServerClosed) })
	if n.proxy != nil {
		group.Go(func() error { return n.proxy.Serve(n.proxyListener) })
	}
	if e := n.envoy; e != nil && e.grpc != nil {
		group.Go(func() error { return serve("Envoy", e.grpc.Serve(e.listener), grpc.ErrServerStopped) })
	}
	if e := n.envoy; e != nil && e.http != nil {
		group.Go(func() error { return serve("Envoy's HTTP", e.http.Serve(e.httpListener), http.ErrServerClosed) })
	}
	n.pushDrain()

	joining, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(work, cancel)() // a part failed
	if n.join(joining); joining.Err() == nil {
		n.setPhase(serving)
		n.log.Info("ready", "name", n.config.Name, "http", n.HTTPAddr(), "grpc", n.GRPCAddr(), "gossip", n.GossipAddr(), "members", len(n.cluster.View().Members))
		if n.onReady != nil {
			n.onReady(n)
		}
	}
	<-joining.Done()
	return n.Close()
}

// serve gives the end of a server a name, unless it was asked to end.
func serve(name string, err, asked error) error {
	if err == nil || errors.Is(err, asked) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", name, err)
}
