// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// load asks nodes about many keys until it is stopped, and complains about every
// call that has an error or takes longer than it may.
type load struct {
	asked, fell atomic.Int64
	stop        chan struct{} // closed to end it
	callers     sync.WaitGroup
}

func startLoad(t *testing.T, nodes ...*node) *load {
	l := &load{stop: make(chan struct{})}
	for i := range 8 {
		l.callers.Go(func() {
			n := nodes[i%len(nodes)]
			for j := 0; ; j++ {
				select {
				case <-l.stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				err := l.one(ctx, n, i, j)
				cancel()
				if err != nil {
					t.Errorf("call at %s: %v", n.name, err)
					return
				}
			}
		})
	}
	return l
}

func (l *load) one(ctx context.Context, n *node, i, j int) error {
	key := fmt.Sprintf("key%d/%d", j%97, i)
	switch j % 3 {
	case 0:
		d, err := n.Check(ctx, &pb.CheckRequest{Key: key, Tier: "open"})
		l.count(d.GetRoute())
		return err
	case 1:
		b, err := n.Batch(ctx, batchOf(&pb.CheckRequest{Key: key, Tier: "open"}, &pb.CheckRequest{Key: "x" + key, Tier: "open"}))
		for _, r := range b.GetResults() {
			l.count(r.GetDecision().GetRoute())
			if e := r.GetError(); e != nil {
				return server.ErrorOf(&pb.Result{Result: &pb.Result_Error{Error: e}})
			}
		}
		return err
	default:
		d, err := n.Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: "open"})
		l.count(d.GetRoute())
		return err
	}
}

func (l *load) count(route pb.Route) {
	l.asked.Add(1)
	if route == pb.Route_ROUTE_FALLBACK {
		l.fell.Add(1)
	}
}

// more waits until n more calls were answered.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	from := l.asked.Load()
	waittest.Until(t, "calls to go on", func() bool { return t.Failed() || l.asked.Load() >= from+n })
}

func (l *load) end() {
	close(l.stop)
	l.callers.Wait()
}

// TestLeaveUnderLoad: a member goes in order, and no call notices.
func TestLeaveUnderLoad(t *testing.T) {
	nodes := newCluster(t, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	l := startLoad(t, a, b)
	l.more(t, 500)
	leaving := topologyOf(a, b)
	leaving.Leaving = []Member{c.member()}
	for _, n := range nodes {
		if err := n.SetTopology(leaving); err != nil {
			t.Fatal(err)
		}
	}
	c.Drain()
	c.grpc.GracefulStop()
	l.more(t, 200)
	for _, n := range []*node{a, b} {
		n.see(a, b)
	}
	l.more(t, 200)
	c.kill()
	l.end()
	for _, n := range []*node{a, b} {
		for why, times := range n.Status().Fallbacks {
			// While views differ two members may each take the other for the owner.
			if times > 0 && cause(why) != causeRedirect {
				t.Errorf("%d calls at %s fell back: %s", times, n.name, why)
			}
		}
		if err := n.Flush(waittest.Context(t, testWait)); err != nil {
			t.Error(err)
		}
		waittest.Until(t, "the link to the member that went to be closed", func() bool {
			n.retired.Lock()
			defer n.retired.Unlock()
			return len(n.retired.peers) == 0
		})
	}
	t.Logf("%d of %d calls fell back", l.fell.Load(), l.asked.Load())
}

// TestCrashesUnderLoad: members die, come back with another boot and another
// address, join and go, and every call is answered.
func TestCrashesUnderLoad(t *testing.T) {
	nodes := newCluster(t, 3, short)
	a, b, c := nodes[0], nodes[1], nodes[2]
	l := startLoad(t, a, b)
	for range 3 {
		l.more(t, 200)
		c.kill()
		l.more(t, 50)
		a.see(a, b)
		b.see(a, b)
		l.more(t, 100)
		c = newNode(t, "node3", a.clock, short)
		for _, n := range []*node{c, a, b} {
			n.see(a, b, c)
		}
	}
	l.more(t, 200)
	l.end()
	for _, n := range []*node{a, b} {
		if err := n.Flush(waittest.Context(t, testWait)); err != nil {
			t.Error(err)
		}
		eventuallyForwarded(t, n, func() (pb.Route, error) {
			d, err := n.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: c.ownedBy(0), Tier: "open"})
			return d.GetRoute(), err
		})
	}
	t.Logf("%d of %d calls fell back", l.fell.Load(), l.asked.Load())
}

// TestTopologiesUnderLoad: views come and go while calls are under way.
func TestTopologiesUnderLoad(t *testing.T) {
	nodes := newCluster(t, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	l := startLoad(t, a, b, c)
	for _, serving := range [][]*node{{a, b}, {b, c}, {a}, {c, b, a}, {b}, {}, {a, b, c}} {
		for _, n := range nodes {
			n.see(serving...)
			l.more(t, 20)
		}
	}
	l.end()
	for _, n := range nodes {
		if err := n.Flush(waittest.Context(t, testWait)); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d of %d calls fell back", l.fell.Load(), l.asked.Load())
}
