// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Members ask each other without credentials of callers: who owns a key, which keys are hot,
// and to take back what is left of a slice. None of it is a failure of a caller.
func TestMembersWithAuth(t *testing.T) {
	t.Parallel()
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	replaceFile(t, policy, "default_tier: free\ntiers: { free: { requests: 1_000_000_000/min } }\n")
	t.Run("cluster key", func(t *testing.T) {
		f, key := newAuthFile(t), clusterKey(t)
		replaceFile(t, f.path, strings.ReplaceAll(f.text("gateway"), "[call]", "[call, read]"))
		nodes := startCluster(t, 3, func(_ int, c *config.Config) { c.Auth, c.ClusterKeyFile, c.Policy = f.path, key, policy })
		agree(t, nodes...)
		checkMembersAsk(t, nodes, func(n *running) *grpc.ClientConn { return n.dialWith(f.token("gateway")) })
	})
	t.Run("TLS", func(t *testing.T) {
		ca, f := newAuthority(t, "ours"), newAuthFile(t)
		replaceFile(t, f.path, "callers:\n- {name: alice, scopes: [call, read], certificates: ['cn:alice']}\n")
		settings := ca.settings("required", "request")
		nodes, _ := secureCluster(t, 3, ca, nil, func(i int, c *config.Config) {
			settings(i, c)
			c.Auth, c.Policy = f.path, policy
		})
		alice := ca.store("alice", false)
		checkMembersAsk(t, nodes, func(n *running) *grpc.ClientConn {
			conn, err := grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(alice.ServerCredentials("localhost")))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		})
	})
}

func checkMembersAsk(t *testing.T, nodes []*running, dial func(*running) *grpc.ClientConn) {
	t.Helper()
	ctx := t.Context()
	holder := pb.NewRateLimiterClient(dial(nodes[0]))
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprintf("root%d/user", i))
	}
	located, err := holder.Locate(ctx, &pb.LocateRequest{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	owners, hot := map[string]int{}, ""
	for _, l := range located.GetLocations() {
		owners[l.GetOwner()]++
		if l.GetState() == "unreachable" {
			t.Fatalf("%s is %v", l.GetKey(), l)
		}
		if l.GetOwner() == "n2" {
			hot = l.GetKey()
		}
	}
	if len(owners) != 3 {
		t.Fatalf("100 keys have owners %v, want all three nodes", owners)
	}

	batch := &pb.BatchRequest{}
	for range 200 {
		batch.Items = append(batch.Items, &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: hot}}})
	}
	var load sync.WaitGroup
	var stop atomic.Bool // no answer with a slice is lost
	for range 4 {
		load.Go(func() {
			for !stop.Load() {
				if _, err := holder.Batch(ctx, batch); err != nil {
					t.Errorf("a batch = %v", err)
					return
				}
			}
		})
	}
	waittest.Until(t, "slices to be lent", func() bool { return nodes[1].metricOf("bucketring_slices_lent_total") > 0 })
	found, err := holder.HotKeys(ctx, &pb.HotKeysRequest{})
	if err != nil || len(found.GetUnreachable()) > 0 || len(found.GetKeys()) == 0 || found.GetKeys()[0].GetOwner() != "n2" {
		t.Errorf("HotKeys = %v, %v, want %s of n2, and all members", found, err, hot)
	}
	stop.Store(true)
	load.Wait()
	waittest.Until(t, "slices to be returned", func() bool {
		s := nodes[0].Status().Slices
		return s.Held == 0 && s.PendingReturns == 0 && nodes[1].metricOf("bucketring_slices_returned_total") > 0
	})
	for _, n := range nodes {
		if failures := n.metricOf("bucketring_auth_failures_total"); failures != 0 {
			t.Errorf("%s counts %d failures of callers, want 0", n.Name(), failures)
		}
	}
}

// metricOf returns the sum of a metric of this node.
func (r *running) metricOf(name string) (sum int) {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += int(m.GetCounter().GetValue() + m.GetGauge().GetValue())
		}
	}
	return sum
}
