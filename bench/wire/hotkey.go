// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/internal/freeport"
)

// One key that everybody asks for, through all members of a cluster of three: with slices,
// without, and with Gubernator, which answers it from copies in its GLOBAL mode.

const hotCallers = 128

// edge is a limiter of one key with a limit of edgeLimit that no window renews meanwhile.
type edge struct {
	name  string
	ask   func(ctx context.Context, caller int) (bench.Answer, error)
	taken int64
}

const (
	edgeLimit   = 10_000
	edgeCallers = 64
	edgeTime    = 2 * time.Second // from when all ask; they reach the limit in a part of it
	// edgeWindow is that of Gubernator's limit.
	edgeWindow = 24 * time.Hour
)

// one asks the targets in turns, by callers, for one key.
func one(list []bench.Target, key, tier string) func(context.Context, int) (bench.Answer, error) {
	return func(ctx context.Context, caller int) (bench.Answer, error) {
		return list[caller%len(list)].Check(ctx, &bench.Call{Key: key, Tier: tier})
	}
}

// addHot adds a row and an edge, which asks with another key.
func (b *run) addHot(name string, s *server, hot, edgeOf func(context.Context, int) (bench.Answer, error)) {
	b.add("hot key, "+name, s, func(ctx context.Context, caller, _ int) (int, error) {
		return 1, admitted(hot(ctx, caller))
	}, hotCallers)
	b.edges = append(b.edges, &edge{name: name, ask: edgeOf})
}

// hotRows adds the rows of a hot key, and what is measured at the edge of its limit.
func (b *run) hotRows(ctx context.Context, c *local.Cluster, s *server) error {
	o := target.Options{Timeout: callTimeout, NoIDs: true}
	nodes, err := b.openAll(ctx, o, "grpc:", c.GRPCAddrs())
	if err != nil {
		return err
	}
	library, err := b.open(ctx, "client:"+strings.Join(c.GRPCAddrs(), ","), o)
	if err != nil {
		return err
	}
	for _, v := range []struct{ name, tier string }{{"no slices", "off"}, {"slices", "hot"}} {
		b.addHot("unary through 3 nodes, "+v.name, s, one(nodes, "hot-unary-"+v.tier, v.tier), one(nodes, "edge-unary-"+v.tier, v.tier+"-edge"))
		clients := []bench.Target{library}
		b.addHot("client library, 3 nodes, "+v.name, s, one(clients, "hot-client-"+v.tier, v.tier), one(clients, "edge-client-"+v.tier, v.tier+"-edge"))
	}
	return nil
}

func (b *run) openAll(ctx context.Context, o target.Options, prefix string, addresses []string) ([]bench.Target, error) {
	var list []bench.Target
	for _, at := range addresses {
		t, err := b.open(ctx, prefix+at, o)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

func (b *run) hotGubernator(ctx context.Context, first, daemons int, s *server) error {
	var addresses []string
	for i := range daemons {
		addresses = append(addresses, freeport.Address(first+2*i))
	}
	for _, v := range []struct {
		name   string
		global bool
	}{{"batching", false}, {"GLOBAL", true}} {
		o := target.Options{Timeout: callTimeout, Global: v.global, Limits: fourLimits[:1]}
		hot, err := b.openAll(ctx, o, "gubernator:", addresses)
		if err != nil {
			return err
		}
		o.Limits = []target.Limit{{Dimension: target.Requests, Amount: edgeLimit, Window: edgeWindow}}
		edges, err := b.openAll(ctx, o, "gubernator:", addresses)
		if err != nil {
			return err
		}
		b.addHot(fmt.Sprintf("Gubernator, through %d daemons, %s", daemons, v.name), s, one(hot, "hot-"+v.name, ""), one(edges, "edge-"+v.name, ""))
	}
	return nil
}

// measureEdges asks each for its key until the limit is reached, and for some time after
// that.
func (b *run) measureEdges(ctx context.Context) error {
	for _, e := range b.edges {
		var group sync.WaitGroup
		var taken atomic.Int64
		var failure atomic.Pointer[error]
		end := time.Now().Add(edgeTime)
		for caller := range edgeCallers {
			group.Go(func() {
				for time.Now().Before(end) && ctx.Err() == nil {
					a, err := e.ask(ctx, caller)
					if err != nil {
						failure.CompareAndSwap(nil, &err)
						return
					}
					if a.Outcome == bench.Allowed {
						taken.Add(1)
					}
				}
			})
		}
		group.Wait()
		if err := failure.Load(); err != nil {
			return fmt.Errorf("at the limit, %s: %w", e.name, *err)
		}
		e.taken = taken.Load()
	}
	return ctx.Err()
}
