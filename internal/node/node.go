// SPDX-License-Identifier: Apache-2.0

// Package node assembles one bucketring node and runs it: the engine, the policy,
// the cluster membership, the router that forwards calls to their owners, the gRPC
// and HTTP servers, and the journal that keeps usage across restarts. A single
// node is a cluster of one.
//
// [New] does what can fail, so that an invalid policy, a port in use or a corrupt
// journal is an error before anything runs. [Node.Run] serves until its context is
// done and then shuts down in bounded time: it turns unready, leaves the ring,
// waits for the drain delay, returns slices, flushes the outbox, waits for calls in flight, leaves
// the cluster, and saves its state.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/audit"
	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/journal"
	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/tracing"
	"github.com/bucketring/bucketring/internal/usagelog"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/rpc/admin"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/peer"
	"github.com/bucketring/bucketring/rpc/replication"
	"github.com/bucketring/bucketring/rpc/resp"
	"github.com/bucketring/bucketring/rpc/server"
)

// Options configure a [Node].
type Options struct {
	// Config must be valid; see [config.Config.Validate].
	Config *config.Config
	Logger *slog.Logger // nil: no log
	// OnReady is called once, by Run, when the node is ready.
	OnReady func(*Node)
	// Now reads both clocks at once. nil means the clocks of the machine.
	Now func() limiter.Time
	// ExpectedMembers delays readiness until the ring has that many members, or until
	// 5 s have passed. It avoids calls during the start of a cluster, when partitions
	// move and then start empty. 0 means to wait only for this node.
	ExpectedMembers int
	// SkipLeave shuts down without leaving the cluster, so that other members see a
	// crash, and logs the shutdown at debug level. It is for members that all end
	// together.
	SkipLeave bool

	wrapListener func(net.Listener) net.Listener // of HTTP, gRPC and the proxy, for tests; nil: not
}

// Node is one member of the cluster. Its methods are safe for concurrent use, but
// Run may be called only once.
type Node struct {
	config          *config.Config
	log             *slog.Logger
	onReady         func(*Node)
	now             func() limiter.Time
	started         time.Time
	skipLeave       bool
	expectedMembers int
	wrapListener    func(net.Listener) net.Listener // for tests; nil: not

	engine         *limiter.Engine
	fallbackEngine *limiter.Engine // decides when an owner cannot be reached
	policies       *source.Store
	access         *auth.Authority // nil: everybody may call
	lists          *changeLists
	journal        *journal.Journal // nil: memory only
	registry       *prometheus.Registry
	usage          *usagelog.Log   // nil: none
	tracer         *tracing.Tracer // nil: none

	boot        cluster.Boot
	tls         nodeTLS
	keys        *clusterKeys
	cluster     *cluster.Cluster
	replication *replication.Host
	replicating *separateRun // nil before Run
	router      *peer.Router
	appliedView appliedView   // the latest view that the router uses
	envoy       *envoyService // nil: off
	admin       *admin.Service
	audit       *audit.Log
	departure   departure

	connections  *ConnectionLimit
	streams      *server.StreamLimits
	rejections   *server.Rejections
	admission    *server.Admission
	processors   *processorQueue
	health       *health.Server
	grpc         *grpc.Server
	http         *http.Server
	grpcListener net.Listener
	httpListener net.Listener

	resp         *resp.Server // nil: off
	respListener net.Listener

	proxy         *Proxy // nil: none
	proxyListener net.Listener

	phase       atomic.Int32
	becameReady chan struct{} // closed when phase is serving for the first time
	healthMu    sync.Mutex    // held to update health
	cleanups    cleanups
}

// Phases of a node.
const (
	starting int32 = iota
	serving
	drained  // an operator has asked for it
	draining // shutting down
)

// New returns a node that listens but does not answer yet. The caller must call Run
// or Close.
func New(o Options) (*Node, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = clock()
	}
	now := time.Now()
	n := &Node{
		config: o.Config, log: o.Logger, onReady: o.OnReady, now: o.Now, started: now, skipLeave: o.SkipLeave, expectedMembers: o.ExpectedMembers, wrapListener: o.wrapListener,
		registry: newRegistry(), boot: newBoot(now), cleanups: cleanups{log: o.Logger}, becameReady: make(chan struct{}),
	}
	if n.skipLeave {
		n.cleanups.level = slog.LevelDebug
	}
	if err := n.assemble(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) assemble() error {
	if err := n.openTracer(); err != nil {
		return err
	}
	if err := n.openTLS(); err != nil { // before the journal: it changes nothing
		return err
	}
	if err := n.openState(); err != nil {
		return err
	}
	n.openLimits()
	if err := n.openListeners(); err != nil {
		return err
	}
	if err := n.openCluster(); err != nil {
		return err
	}
	if err := n.openEnvoy(); err != nil {
		return err
	}
	if err := n.openAdmin(); err != nil {
		return err
	}
	n.openServers()
	if err := n.openRESP(); err != nil {
		return err
	}
	return n.openProxy()
}

// openState creates the engine and the policy, and restores the state on disk.
func (n *Node) openState() (err error) {
	c := n.config
	ledger, err := n.openUsageLog()
	if err != nil {
		return err
	}
	catalog := limiter.NewCatalog()
	n.engine = limiter.New(limiter.Options{
		Catalog: catalog, MaxKeys: c.MaxKeys, MaxKeysPerRoot: c.MaxKeysPerRoot, MaxIDs: c.MaxIDs, HotKeys: true, Ledger: ledger, CountUsage: true,
	})
	n.lists = newChangeLists(n.engine)
	if n.policies, err = source.New(source.Options{
		Path: c.Policy, Catalog: catalog, Logger: n.log, Directory: c.Data, Insecure: c.Insecure,
		Interval: c.PolicySource.Interval, TokenFile: c.PolicySource.TokenFile, TLS: PolicyTLS(c.PolicySource),
		OnChange: func(p *policy.Policy) {
			n.cluster.SetPolicy(cluster.ID(p.Version()))
			n.router.PolicyChanged()
		},
	}); err != nil {
		return policyHint(err, c)
	}
	n.registry.MustRegister(newPolicyCollector(n.policies.Status))
	if c.Data == "" {
		return nil
	}
	return n.newJournal()
}

// openLimits creates the limits of connections and streams.
func (n *Node) openLimits() {
	c, listeners := n.config, 2
	for _, address := range []string{c.ProxyListen, c.ProxyListen, c.EnvoyListen, c.EnvoyHTTP, c.RESP} { // each call of the proxy has two connections
		if address != "" {
			listeners++
		}
	}
	n.connections = NewConnectionLimit(c.MaxConnections, listeners, n.registry, n.log)
	n.rejections = server.NewRejections(n.registry)
	n.streams = server.NewStreamLimits(n.registry, n.isMember)
	n.admission = server.NewAdmission(n.registry)
	n.processors = newProcessorQueue(n.registry, n.admission, n.log)
}

// isMember reports whether a remote address is that of another member.
func (n *Node) isMember(a netip.Addr) bool { return n.cluster.HasMember(a) }

func (n *Node) openListeners() (err error) {
	if n.grpcListener, err = n.listen("grpc", n.config.GRPC, n.isMember, nil); err != nil {
		return fmt.Errorf("listen for gRPC: %w", err)
	}
	if n.httpListener, err = n.listen("http", n.config.HTTP, nil, listenlimit.HTTPRefusal()); err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	return nil
}

// openCluster creates the membership and the router.
func (n *Node) openCluster() (err error) {
	if n.keys, err = readClusterKeys(n.config.ClusterKeyFile); err != nil {
		return err
	}
	if err = n.openAuth(); err != nil {
		return err
	}
	if n.cluster, err = n.newCluster(); err != nil {
		return err
	}
	local := server.New(server.Options{
		Engine:    n.engine,
		Policy:    func() server.Policy { return n.policies.Current() },
		Now:       n.now,
		Name:      n.config.Name,
		Registry:  n.registry,
		Admission: n.admission,
	})
	if n.replication, err = n.newReplication(); err != nil {
		return err
	}
	n.router, err = peer.New(peer.Options{
		Name: n.config.Name, Boot: runNumber(n.boot),
		Local: local, Fallback: n.newFallback(local), Owners: n.replication,
		Keys: n.keys.current, Timeout: n.config.ForwardTimeout,
		Credentials: n.memberCredentials, Certify: n.certify,
		Logger: n.log, Registry: n.registry, Tracer: n.tracer,
	})
	return err
}

// openServers creates the servers, which do not serve yet.
func (n *Node) openServers() {
	n.health = server.NewHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	n.grpc = server.NewGRPC(server.Traced(n.router, n.tracer), server.GRPCOptions{
		Health: n.health, Logger: n.log, Streams: n.streams, Rejections: n.rejections, Admission: n.admission,
		Access: n.access, Services: append(n.services(), n.admin.GRPC()), Server: n.grpcCredentials(),
	})
	n.openEnvoyServers()
	pb.RegisterPeerServer(n.grpc, n.replication.Peer(n.router.Peer()))
	n.http = httpapi.NewServer(tracing.Handler(httpapi.New(httpapi.Options{
		Service:    server.Traced(n.router, n.tracer),
		Ready:      n.Ready,
		Safe:       n.Safe,
		Metrics:    promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{Registry: n.registry, EnableOpenMetrics: n.tracer != nil}), // for exemplars
		Status:     func() any { return n.Status() },
		Partitions: func(ctx context.Context, member string) (any, error) { return n.Partitions(ctx, member) },
		Forget:     n.Forget,
		Admin:      n.admin,
		StatusPage: n.statusPage,
		Rejections: n.rejections,
		Admission:  n.admission,
		Access:     n.access,
		Logger:     n.log,
	}), n.tracer))
	n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_safe_to_lose_a_node", Help: "1 if any one node may be restarted or lost now without the loss of a charge, as this node knows it.",
	}, func() float64 { return boolGauge(n.Safe() == nil) }))
	n.registry.MustRegister(newHotKeysCollector(n))
	n.http.ErrorLog = slog.NewLogLogger(n.log.Handler(), slog.LevelWarn)
}

// listen opens a listener with limits. It may accept only once the cluster is open.
func (n *Node) listen(name, address string, member func(netip.Addr) bool, refusal []byte) (net.Listener, error) {
	network := "tcp"
	if path, ok := config.UnixPath(address); ok {
		network, address = "unix", path
		if err := removeStaleSocket(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	n.cleanups.push("close "+address, func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) { // its server may have closed it
			return err
		}
		return nil
	})
	if n.wrapListener != nil {
		l = n.wrapListener(l)
	}
	return n.connections.Limit(l, name, member, refusal), nil
}

// clockStart is what the monotonic clock of a node starts at, so that it has times for
// what happened in the years before.
const clockStart = 10 * 365 * 24 * time.Hour

// clock returns a function that reads the machine's clocks.
func clock() func() limiter.Time {
	base := time.Now()
	return func() limiter.Time {
		t := time.Now()
		return limiter.Time{Mono: int64(clockStart + t.Sub(base)), Wall: t.UnixNano()}
	}
}

// Run serves until ctx is done or a component fails, and then shuts down. It
// returns nil if no component failed and the shutdown had no error.
func (n *Node) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, work := errgroup.WithContext(work)
	if n.journal != nil {
		n.cleanups.push("save state", n.journal.Flush)
	}
	gossip := startRun(n.cluster.Run)
	n.replicating = startRun(n.replication.Run)
	n.cleanups.push("leave the cluster", func() error { return n.leaveCluster(gossip) })
	n.cleanups.push("stop background work", func() error {
		stop()
		return errors.Join(group.Wait(), n.replicating.stop())
	})
	group.Go(func() error { return gossip.watch(work) })
	group.Go(func() error { return n.router.Run(work) })
	group.Go(func() error { return n.followViews(work) })
	if n.journal != nil {
		group.Go(func() error { return n.journal.Run(work) })
	}
	if n.usage != nil {
		group.Go(func() error { return n.usage.Run(work) })
	}
	group.Go(func() error { return n.sweep(work) })
	group.Go(func() error { return n.processors.watch(work) })
	group.Go(func() error { return n.policies.Run(work) })
	group.Go(func() error { return n.runAuth(work) })
	n.runEnvoy(work, group)

	n.cleanups.push("stop servers", n.stopServers)
	group.Go(func() error { return serve("gRPC", n.grpc.Serve(n.grpcListener), grpc.ErrServerStopped) })
	group.Go(func() error {
		return serve("HTTP", n.http.Serve(n.secureHTTP(n.httpListener, "http", callers(n.config.TLS.ClientAuth))), http.ErrServerClosed)
	})
	if n.proxy != nil {
		group.Go(func() error { return n.proxy.Serve(n.secureHTTP(n.proxyListener, "proxy", tls.NoClientCert)) })
	}
	if e := n.envoy; e != nil && e.grpc != nil {
		group.Go(func() error { return serve("Envoy", e.grpc.Serve(e.listener), grpc.ErrServerStopped) })
	}
	if e := n.envoy; e != nil && e.http != nil {
		group.Go(func() error { return serve("Envoy's HTTP", e.http.Serve(e.httpListener), http.ErrServerClosed) })
	}
	if n.resp != nil {
		group.Go(func() error { return serve("the Redis protocol", n.resp.Serve(n.secureRESP()), resp.ErrServerClosed) })
	}
	n.pushDrain()

	joining, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(work, cancel)() // a component failed
	if n.join(joining); joining.Err() == nil {
		n.setPhase(serving)
		close(n.becameReady)
		n.log.Info("ready", "name", n.config.Name, "http", n.HTTPAddr(), "grpc", n.GRPCAddr(), "gossip", n.GossipAddr(), "members", len(n.cluster.View().Members))
		if n.onReady != nil {
			n.onReady(n)
		}
	}
	<-joining.Done()
	return n.Close()
}

// serve wraps the error of a server. It returns nil if the server was stopped.
func serve(name string, err, stopped error) error {
	if err == nil || errors.Is(err, stopped) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", name, err)
}
