// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/fallback"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/peer"
	"github.com/bucketring/bucketring/rpc/replication"
	"github.com/bucketring/bucketring/rpc/server"
)

// A real member of a cluster, without gossip: the test sets the members.
type routed struct {
	router *peer.Router
	owners *replication.Host
	member peer.Member
	kill   func()
	gate   gate // of what owners sends

	policies []*policy.Policy // of the texts with which the node was started
	policy   atomic.Pointer[policy.Policy]
}

const clusterPolicy = `
tiers:
  thousand: { requests: 1000/day }
  million: { requests: 1_000_000/day }
  tokens: { tokens: 1_000_000/day }
  lent:
    limits:
      - { name: rpd, dimension: requests, limit: 1_000_000, window: day, slices: clients }
      - { name: tpd, dimension: tokens, limit: 500_000_000, window: day, slices: clients }
default_tier: thousand
`

// startCluster starts members that know each other.
func startCluster(t *testing.T, names ...string) map[string]*routed {
	t.Helper()
	nodes := map[string]*routed{}
	for i, name := range names {
		nodes[name] = startRouted(t, name, uint64(i+1))
	}
	serving(t, nodes, names...)
	for _, n := range nodes {
		n.owners.Bootstrap(names)
	}
	awaitSafe(t, nodes)
	return nodes
}

// awaitSafe waits until each node owns what the ring gives it, and has heirs.
func awaitSafe(t *testing.T, nodes map[string]*routed) {
	t.Helper()
	table, err := ring.New(slices.Collect(maps.Keys(nodes)))
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range nodes {
		waittest.Until(t, name+" to own its partitions", func() bool {
			s, err := n.owners.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s.Owned == len(table.Owned(name)) && s.WithoutOwner+s.WithoutHeir+s.Copying == 0
		})
	}
}

func startRouted(t *testing.T, name string, boot uint64) *routed {
	t.Helper()
	if testing.Short() {
		t.Skip("several members with all partitions in one process take too long under the race detector")
	}
	now := limiter.Time{Mono: int64(time.Hour), Wall: time.Date(2026, 11, 22, 21, 40, 0, 0, time.UTC).UnixNano()}
	return startRoutedBy(t, name, boot, func() limiter.Time { return now }, clusterPolicy)
}

// startRoutedBy starts a member by a clock, with the first of some policies.
func startRoutedBy(t *testing.T, name string, boot uint64, now func() limiter.Time, texts ...string) *routed {
	t.Helper()
	engine, aside := limiter.New(limiter.Options{HotKeys: true}), limiter.New(limiter.Options{})
	n := &routed{}
	for _, text := range texts {
		p, err := policy.Parse("policy.yaml", []byte(text), engine.Catalog())
		if err != nil {
			t.Fatal(err)
		}
		n.policies = append(n.policies, p)
	}
	n.policy.Store(n.policies[0])
	local := server.New(server.Options{
		Engine: engine, Policy: func() server.Policy { return n.policy.Load() }, Now: now, Name: name,
	})
	policies := fallback.New(aside.Catalog())
	var err error
	n.owners, err = replication.New(replication.Options{
		Name: name, Boot: boot, Engine: replication.LimiterEngine(engine, time.LoadLocation), Now: now,
		Dial:    []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(n.gate.dial)},
		Changed: func(int, continuity.Arrangement, continuity.Role) { n.router.OwnersChanged() },
		Report:  func(r continuity.Repay) { n.router.Report(r) },
	})
	if err != nil {
		t.Fatal(err)
	}
	n.router, err = peer.New(peer.Options{
		Name: name, Boot: boot, Local: local, Owners: n.owners,
		Fallback: local.Fallback(aside, func() server.Policy { return policies.Policy(n.policy.Load(), n.router.Roster()) }),
		Dial:     []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.member = peer.Member{Name: name, Boot: boot, GRPC: l.Addr().String()}
	s := server.NewGRPC(n.router, server.GRPCOptions{})
	pb.RegisterPeerServer(s, n.owners.Peer(n.router.Peer()))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Serve(l) })
	running.Go(func() {
		if err := n.owners.Run(ctx); err != nil {
			t.Errorf("Run() of the owners of %s = %v", name, err)
		}
	})
	running.Go(func() {
		if err := n.router.Run(ctx); err != nil {
			t.Errorf("Run() of %s = %v", name, err)
		}
	})
	n.kill = sync.OnceFunc(func() { n.gate.open(); cancel(); s.Stop(); running.Wait() })
	t.Cleanup(n.kill)
	return n
}

// serving makes the named nodes the members of every node's ring.
func serving(t *testing.T, nodes map[string]*routed, names ...string) {
	t.Helper()
	top := peer.Topology{Roster: len(names)}
	for _, name := range names {
		top.Serving = append(top.Serving, nodes[name].member)
	}
	for _, n := range nodes {
		if err := n.router.SetTopology(top); err != nil {
			t.Fatal(err)
		}
	}
}

// dialCluster returns a client with one address, once it follows the ring.
func dialCluster(t *testing.T, nodes map[string]*routed, given string, plain bool) *client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{Addrs: []string{nodes[given].member.GRPC}, DisableOwnerRouting: plain, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if !plain {
		waitDirect(t, c, len(nodes))
	}
	return c
}

// waitDirect waits until c sends calls directly to that many members.
func waitDirect(t *testing.T, c *client.Client, members int) {
	t.Helper()
	waittest.Until(t, "direct connections", func() bool {
		direct := 0
		for _, m := range c.Status().Members {
			if m.Direct {
				direct++
			}
		}
		return direct == members && len(c.Status().Members) == members
	})
}

// A limit of 1,000 admits 1,000 calls of any number and kind of clients.
func TestClusterIsExact(t *testing.T) {
	for _, names := range [][]string{{"node1", "node2", "node3"}, {"node1", "node2", "node3", "node4", "node5"}} {
		t.Run(fmt.Sprint(len(names)), func(t *testing.T) {
			nodes := startCluster(t, names...)
			clients := []*client.Client{
				dialCluster(t, nodes, "node1", false), dialCluster(t, nodes, names[len(names)-1], false), dialCluster(t, nodes, "node1", true),
			}
			var admitted [2]atomic.Int64
			var callers sync.WaitGroup
			for caller := range 48 {
				callers.Go(func() {
					for i := range 60 { // 1,440 for each key
						k := (caller + i) % len(admitted)
						d, err := clients[caller%len(clients)].Check(t.Context(), client.Call{Key: fmt.Sprintf("org-%d", k)})
						if err != nil || d.Route == client.Fallback {
							t.Errorf("Check() = %s, %v, want an answer of the owner", d.Route, err)
						}
						if d.Allowed() {
							admitted[k].Add(1)
						}
					}
				})
			}
			callers.Wait()
			for k := range admitted {
				if got := admitted[k].Load(); got != 1000 {
					t.Errorf("org-%d: %d admitted, want 1000", k, got)
				}
			}
		})
	}
}

func TestClusterOwners(t *testing.T) {
	names := []string{"node1", "node2", "node3"}
	nodes := startCluster(t, names...)
	table, err := ring.New(names)
	if err != nil {
		t.Fatal(err)
	}
	c := dialCluster(t, nodes, "node2", false)
	if s := c.Status(); s.RingDigest != table.Digest() || s.Partitions != ring.Partitions {
		t.Errorf("Status() = %+v, want digest %x", s, table.Digest())
	}
	for _, key := range keys(10_000) {
		if got, want := c.Owner(key), table.Owner(ring.PartitionOf(key)); got != want {
			t.Fatalf("Owner(%s) = %s, want %s", key, got, want)
		}
	}
	for _, key := range keys(100) { // one hop: the owner itself answers
		d, err := c.Check(t.Context(), client.Call{Key: key})
		if err != nil || d.Owner != c.Owner(key) || d.Route != client.Local {
			t.Errorf("Check(%s) = %s by %s, %v, want local by %s", key, d.Route, d.Owner, err, c.Owner(key))
		}
	}
}

// A reservation is made through one client and settled through others.
func TestClusterReservations(t *testing.T) {
	nodes := startCluster(t, "node1", "node2", "node3")
	one, other, plain := dialCluster(t, nodes, "node1", false), dialCluster(t, nodes, "node2", false), dialCluster(t, nodes, "node3", true)
	for i, key := range keys(30) {
		r, err := one.Reserve(t.Context(), client.Estimate{Key: key})
		if err != nil || r.Denied() {
			t.Fatalf("Reserve(%s) = %v", key, err)
		}
		c := []*client.Client{other, plain}[i%2]
		s, err := c.Reservation(key, r.RequestID).Settle(t.Context(), client.Usage{})
		if err != nil || s.Status != client.Settled {
			t.Errorf("Settle(%s) = %q, %v, want settled", key, s.Status, err)
		}
	}
}

// A member dies. Its keys are decided in fallback until its heirs have taken over, and
// other keys are not affected. Reservations made meanwhile can be settled.
func TestClusterMemberDies(t *testing.T) {
	nodes := startCluster(t, "node1", "node2", "node3")
	c := dialCluster(t, nodes, "node1", false)
	dead := map[string]bool{}
	for _, key := range keys(60) {
		dead[key] = c.Owner(key) == "node2"
	}
	nodes["node2"].kill()
	for _, key := range keys(60) {
		r, err := c.Reserve(t.Context(), client.Estimate{Key: key})
		if err != nil || r.Denied() {
			t.Fatalf("Reserve(%s) = %v", key, err)
		}
		if !dead[key] && r.Route == client.Fallback {
			t.Errorf("Reserve(%s), whose owner lives, went by %s", key, r.Route)
		}
		if s, err := r.Settle(t.Context(), client.Usage{}); err != nil || s.Status != client.Settled {
			t.Errorf("Settle(%s) = %q, %v, want settled", r.RequestID, s.Status, err)
		}
	}
	waittest.Until(t, "the heirs to take over", func() bool {
		for key := range dead {
			if d, err := c.Check(t.Context(), client.Call{Key: key}); err != nil || d.Route == client.Fallback {
				return false
			}
		}
		return true
	})
	delete(nodes, "node2")
	serving(t, nodes, "node1", "node3")
	waitDirect(t, c, 2)
	for _, key := range keys(60) {
		d, err := c.Check(t.Context(), client.Call{Key: key})
		if err != nil || d.Route != client.Local {
			t.Errorf("Check(%s) = %s, %v, want local", key, d.Route, err)
		}
	}
	nodes["node4"] = startRouted(t, "node4", 9)
	serving(t, nodes, "node1", "node3", "node4")
	awaitSafe(t, nodes)
	waitDirect(t, c, 3)
	share := 0
	for _, key := range keys(300) {
		d, err := c.Check(t.Context(), client.Call{Key: key})
		if err != nil || d.Route != client.Local {
			t.Errorf("Check(%s) = %s, %v, want local", key, d.Route, err)
		}
		if d.Owner == "node4" {
			share++
		}
	}
	if share < 60 {
		t.Errorf("the new member decided %d of 300 calls, want about a third", share)
	}
}
