// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/fallback"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

const testPolicy = `
tiers:
  thousand: { requests: 1000/day }
  hot:      { requests: 6_000/h }
  busy:     { requests: 6_000/h, tokens: 1_000_000/h }
  free:     { requests: 100/min, tokens: 10_000/min, concurrent: 8 }
  closed:
    limits:
      - { name: hits, dimension: requests, limit: 90, window: 1h, unreachable: closed }
  share:
    limits:
      - { name: hits, dimension: requests, limit: 90, window: 1h, unreachable: share }
  guarded:
    limits:
      - { name: tpm, dimension: tokens, limit: 10_000, window: 1m, unreachable: closed }
      - { name: slots, dimension: concurrent, limit: 8, unreachable: closed }
  open:
    limits:
      - { name: hits, dimension: requests, limit: 90, window: 1h, unreachable: open }
  shrink:
    limits:
      - { name: tpm, dimension: tokens, limit: 1_000, window: 1m, on_exceed: degrade }
  waits:
    limits:
      - { name: slots, dimension: concurrent, limit: 1, queue: { max_wait: 1m, max_depth: 100 } }
  images:
    limits:
      - { name: pictures, dimension: images, limit: 5, window: 1h }
default_tier: free
prices:
  "*": { input: 1.00, output: 3.00 }
`

// testWait is far longer than anything that a test waits for takes.
const testWait = 10 * time.Second

// clock is a clock that the test moves, for all nodes.
type clock struct{ elapsed atomic.Int64 }

func (c *clock) now() limiter.Time {
	const start = 1_767_268_800_000_000_000 // 2026-01-01T12:00:00Z
	return limiter.Time{Mono: c.elapsed.Load(), Wall: start + c.elapsed.Load()}
}

// node is one member with all that it stands on.
type node struct {
	*Router
	t        testing.TB
	clock    *clock
	address  string
	options  Options
	registry *prometheus.Registry
	owners   *ringOwners
	listener *icebox
	grpc     *grpc.Server

	stop    context.CancelFunc
	stopped sync.Once
	running sync.WaitGroup
}

// newNode starts a member that knows of no other.
func newNode(t testing.TB, name string, c *clock, change ...func(*Options)) *node {
	t.Helper()
	engine, aside := limiter.New(limiter.Options{HotKeys: true}), limiter.New(limiter.Options{})
	p, err := policy.Parse("test.yaml", []byte(testPolicy), engine.Catalog())
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	n := &node{t: t, clock: c, registry: prometheus.NewRegistry(), owners: newRingOwners()}
	local := server.New(server.Options{
		Engine: engine, Policy: func() server.Policy { return p }, Now: c.now, Name: name, Registry: n.registry,
	})
	policies := fallback.New(aside.Catalog())
	n.options = Options{
		Name:     name,
		Boot:     boots.Add(1),
		Owners:   n.owners,
		Local:    local,
		Fallback: local.Fallback(aside, func() server.Policy { return policies.Policy(p, n.Roster()) }),
		Dial:     []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
		Timeout:  testWait, // the machine may be busy
		Registry: n.registry,
	}
	for _, f := range change {
		f(&n.options)
	}
	n.owners.self = continuity.ID{Name: n.options.Name, Boot: n.options.Boot}
	n.owners.alone()
	if n.Router, err = New(n.options); err != nil {
		t.Fatalf("New(%s) = %v", name, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.listener = &icebox{Listener: l, thaw: make(chan struct{})}
	close(n.listener.thaw)
	n.address = l.Addr().String()
	n.grpc = server.NewGRPC(n.Router, server.GRPCOptions{Logger: slog.New(slog.DiscardHandler)})
	pb.RegisterPeerServer(n.grpc, n.Peer())
	n.running.Go(func() {
		if err := n.grpc.Serve(n.listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("Serve() of %s = %v", name, err)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	n.running.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("Run() of %s = %v", name, err)
		}
	})
	t.Cleanup(n.kill)
	return n
}

var boots atomic.Uint64

// kill ends n at once. Its state is lost.
func (n *node) kill() {
	n.stopped.Do(func() {
		n.listener.setFrozen(false)
		n.grpc.Stop()
		n.stop()
		n.running.Wait()
	})
}

func (n *node) member() Member { return Member{Name: n.name, Boot: n.boot, GRPC: n.address} }

// conn connects a client to n.
func (n *node) conn() *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+n.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// see gives n a topology.
func (n *node) see(serving ...*node) {
	n.t.Helper()
	if err := n.SetTopology(topologyOf(serving...)); err != nil {
		n.t.Fatalf("SetTopology() of %s = %v", n.name, err)
	}
}

func topologyOf(serving ...*node) Topology {
	t := Topology{Roster: max(len(serving), 1)}
	for _, s := range serving {
		t.Serving = append(t.Serving, s.member())
	}
	return t
}

// newCluster starts n members that know each other.
func newCluster(t testing.TB, n int, change ...func(*Options)) []*node {
	t.Helper()
	nodes, c := make([]*node, n), &clock{}
	for i := range nodes {
		nodes[i] = newNode(t, fmt.Sprint("node", i+1), c, change...)
	}
	for _, member := range nodes {
		member.see(nodes...)
	}
	return nodes
}

// ownedBy returns a key that n owns, with a different one for each i.
func (n *node) ownedBy(i int) string {
	v := n.table.Load()
	for j := 0; ; j++ {
		if key := fmt.Sprint("key", j); n.mine(v, ring.PartitionOf(key), 0) {
			if i--; i < 0 {
				return key
			}
		}
	}
}

// used returns what was used of a requests or tokens limit, as n's own service
// has it.
func (n *node) used(key, tier, dimension string) int64 {
	n.t.Helper()
	return used(n.t, n.local, key, tier, dimension)
}

func used(t testing.TB, s *server.Service, key, tier, dimension string) int64 {
	t.Helper()
	p, err := s.Peek(context.Background(), &pb.PeekRequest{Key: key, Tier: tier})
	if err != nil {
		t.Fatalf("Peek(%s) = %v", key, err)
	}
	for _, l := range p.Limits {
		if l.Dimension == dimension {
			return l.Capacity - l.Remaining + l.Debt
		}
	}
	t.Fatalf("Peek(%s) has no %s limit", key, dimension)
	return 0
}

// metric sums the series of a metric whose labels have all of parts.
func (n *node) metric(name string, parts ...string) float64 {
	n.t.Helper()
	families, err := n.registry.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := m.String()
			if slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(labels, `"`+p+`"`) }) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// icebox is a listener whose connections can be frozen, as those of a process
// that was stopped: they stay, and nothing is read or written.
type icebox struct {
	net.Listener
	mu   sync.Mutex
	thaw chan struct{} // closed: nothing is frozen
}

func (b *icebox) setFrozen(frozen bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.thaw:
		if frozen {
			b.thaw = make(chan struct{})
		}
	default:
		if !frozen {
			close(b.thaw)
		}
	}
}

func (b *icebox) wait() {
	b.mu.Lock()
	thaw := b.thaw
	b.mu.Unlock()
	<-thaw
}

func (b *icebox) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &frozenConn{c, b}, nil
}

type frozenConn struct {
	net.Conn
	box *icebox
}

func (c *frozenConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.box.wait()
	return n, err
}

func (c *frozenConn) Write(p []byte) (int, error) {
	c.box.wait()
	return c.Conn.Write(p)
}

// itemOf makes an item of a request.
func itemOf(request proto.Message) *pb.Item {
	c := call.Of(request)
	return c.Item(true)
}

// batchOf makes a batch of requests.
func batchOf[Q proto.Message](requests ...Q) *pb.BatchRequest {
	b := &pb.BatchRequest{}
	for _, q := range requests {
		b.Items = append(b.Items, itemOf(q))
	}
	return b
}

// change is a small change of an owner since a term.
func change(since, seq uint64) *server.Change {
	return &server.Change{Decided: true, Since: since, Seq: seq}
}
