// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
)

// gate holds back what is written to connections while it is closed.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // nil: it is open
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

func (g *gate) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &gatedConn{conn, g}, nil
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Write(b []byte) (int, error) {
	c.gate.mu.Lock()
	opened := c.gate.opened
	c.gate.mu.Unlock()
	if opened != nil {
		<-opened
	}
	return c.Conn.Write(b)
}

// TestClusterRepays: an owner answers small charges, and nothing that it sends arrives
// until its heirs have taken over without them. Then it reports them to the new owners.
func TestClusterRepays(t *testing.T) {
	nodes := startCluster(t, "node1", "node2", "node3")
	former := nodes["node2"]
	partitions := map[int]string{} // one key each, because each lags on its own
	for i := 0; len(partitions) < 30; i++ {
		key := fmt.Sprintf("root%d", i)
		if p := ring.PartitionOf(key); former.owners.Place(p).Owner.Name == "node2" && partitions[p] == "" {
			partitions[p] = key
		}
	}
	check := func(n *routed, key, id string) *pb.Decision {
		d, err := n.router.Check(waittest.Context(t, 10*time.Second), &pb.CheckRequest{Key: key, RequestId: id})
		if err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
			t.Fatalf("Check(%s) = %v, %v, want it admitted", key, d, err)
		}
		return d
	}
	for _, key := range partitions {
		check(former, key, "before")
	}
	waittest.Until(t, "the heirs to have the charges", func() bool {
		s, err := former.owners.Status(t.Context())
		return err == nil && s.Lag == 0
	})
	former.gate.close()
	local := 0
	for _, key := range partitions {
		if check(former, key, "cut off").Route == pb.Route_ROUTE_LOCAL {
			local++
		}
	}
	if local == 0 {
		t.Fatal("no call was answered at once")
	}
	other := nodes["node1"]
	waittest.Until(t, "the heirs to take over", func() bool {
		for p := range partitions {
			if o := other.owners.Place(p).Owner.Name; o == "node2" || o == "" {
				return false
			}
		}
		return true
	})
	former.gate.open()
	for _, key := range partitions {
		waittest.Until(t, "both charges of "+key, func() bool {
			p, err := other.router.Peek(t.Context(), &pb.PeekRequest{Key: key})
			return err == nil && p.Route != pb.Route_ROUTE_FALLBACK && p.Limits[0].Limit-p.Limits[0].Remaining == 2
		})
		// While partitions move back to who was cut off, a call may be decided in fallback.
		waittest.Until(t, "the answer of the former owner to "+key, func() bool { return check(other, key, "cut off").Replayed })
	}
	for _, key := range partitions {
		waittest.Until(t, "the charges of "+key+" to be as before", func() bool {
			p, err := other.router.Peek(t.Context(), &pb.PeekRequest{Key: key})
			return err == nil && p.Route != pb.Route_ROUTE_FALLBACK && p.Limits[0].Limit-p.Limits[0].Remaining == 2
		})
	}
}
