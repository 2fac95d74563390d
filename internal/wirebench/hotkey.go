// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// One key that everybody asks for, through all members of a cluster of three: with slices,
// without, and with Gubernator, which answers it from copies in its GLOBAL mode.

const hotCallers = 128

// edge is a limiter of one key with a limit of edgeLimit that no window renews meanwhile.
type edge struct {
	name  string
	ask   func(ctx context.Context, caller int) (admitted bool, err error)
	taken int64
}

const (
	edgeLimit   = 10_000
	edgeCallers = 64
	edgeTime    = 2 * time.Second // from when all ask; they reach the limit in a part of it
)

// hotRows adds the rows of a hot key, and what is measured at the edge of its limit.
func (b *bench) hotRows(ctx context.Context) error {
	var apis []pb.RateLimiterClient
	var addrs []string
	for _, n := range b.cluster {
		conn, err := b.dial(n.grpc)
		if err != nil {
			return err
		}
		apis, addrs = append(apis, pb.NewRateLimiterClient(conn)), append(addrs, n.grpc)
	}
	for _, v := range []struct{ name, tier string }{{"no slices", "off"}, {"slices", "hot"}} {
		unary := func(ctx context.Context, caller int, key, tier string) (*pb.Decision, error) {
			return apis[caller%len(apis)].Check(ctx, &pb.CheckRequest{Key: key, Tier: tier}, grpc.WaitForReady(true))
		}
		b.add("hot key, unary through 3 nodes, "+v.name, b.cluster, func(ctx context.Context, caller, _ int) (int, error) {
			return 1, admitted(unary(ctx, caller, "hot-unary-"+v.tier, v.tier))
		}, hotCallers)
		b.edges = append(b.edges, &edge{name: "unary through 3 nodes, " + v.name, ask: func(ctx context.Context, caller int) (bool, error) {
			d, err := unary(ctx, caller, "edge-unary-"+v.tier, v.tier+"-edge")
			return d.GetOutcome() == pb.Outcome_OUTCOME_ALLOWED, err
		}})
		c, err := client.Dial(client.Options{Addrs: addrs, DisableSlices: v.tier == "off"})
		if err != nil {
			return err
		}
		b.onClose(func() { _ = c.Close() }) // the process is ending
		b.add("hot key, client library, 3 nodes, "+v.name, b.cluster, func(ctx context.Context, _, _ int) (int, error) {
			d, err := c.Check(ctx, client.Call{Key: "hot-client-" + v.tier, Tier: v.tier})
			if err == nil && !d.Allowed() {
				err = fmt.Errorf("%s by %s", d.Outcome, d.Route)
			}
			return 1, err
		}, hotCallers)
		b.edges = append(b.edges, &edge{name: "client library, 3 nodes, " + v.name, ask: func(ctx context.Context, _ int) (bool, error) {
			d, err := c.Check(ctx, client.Call{Key: "edge-client-" + v.tier, Tier: v.tier + "-edge"})
			return d.Allowed(), err
		}})
	}
	if b.gubernator == "" {
		return nil
	}
	return b.hotGubernator(ctx)
}

// Behaviors of Gubernator.
const (
	batching = 0
	global   = 2
)

func (b *bench) hotGubernator(ctx context.Context) error {
	c, err := b.startGubernator(ctx, 3)
	if err != nil {
		return err
	}
	host, first, err := net.SplitHostPort(c.grpc)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	var conns []*grpc.ClientConn
	for i := range 3 { // the ports of its daemons are two apart
		conn, err := b.dial(net.JoinHostPort(host, strconv.Itoa(port+2*i)))
		if err != nil {
			return err
		}
		conns = append(conns, conn)
	}
	for _, v := range []struct {
		name     string
		behavior uint64
	}{{"batching", batching}, {"GLOBAL", global}} {
		ask := func(ctx context.Context, caller int, key string, limit uint64) (bool, error) {
			var out []byte
			in := rateLimits(key, limit, v.behavior)
			if err := conns[caller%len(conns)].Invoke(ctx, "/pb.gubernator.V1/GetRateLimits", in, &out, grpc.ForceCodec(rawCodec{})); err != nil {
				return false, err
			}
			return underLimit(out)
		}
		b.add("hot key, Gubernator 2.13, through 3 daemons, "+v.name, []*child{c}, func(ctx context.Context, caller, _ int) (int, error) {
			_, err := ask(ctx, caller, "hot-"+v.name, plentyOfHits)
			return 1, err
		}, hotCallers)
		b.edges = append(b.edges, &edge{name: "Gubernator 2.13, through 3 daemons, " + v.name, ask: func(ctx context.Context, caller int) (bool, error) {
			return ask(ctx, caller, "edge-"+v.name, edgeLimit)
		}})
	}
	return nil
}

// underLimit returns whether the hit that a GetRateLimitsResp answers was admitted.
func underLimit(wire []byte) (bool, error) {
	_, _, n := protowire.ConsumeTag(wire)
	if n < 0 {
		return false, fmt.Errorf("got an answer of %d bytes", len(wire))
	}
	response, n := protowire.ConsumeBytes(wire[n:])
	if n < 0 {
		return false, protowire.ParseError(n)
	}
	under := true
	for len(response) > 0 {
		number, kind, n := protowire.ConsumeTag(response)
		if n < 0 {
			return false, protowire.ParseError(n)
		}
		response = response[n:]
		size := protowire.ConsumeFieldValue(number, kind, response)
		if size < 0 {
			return false, protowire.ParseError(size)
		}
		switch number {
		case 1: // status: 1 is over the limit
			status, _ := protowire.ConsumeVarint(response)
			under = status == 0
		case 5:
			if text, _ := protowire.ConsumeBytes(response); len(text) > 0 {
				return false, errors.New(string(text))
			}
		}
		response = response[size:]
	}
	return under, nil
}

// measureEdges asks each for its key until the limit is reached, and for some time after
// that.
func (b *bench) measureEdges(ctx context.Context) error {
	for _, e := range b.edges {
		var group sync.WaitGroup
		var taken atomic.Int64
		var failure atomic.Pointer[error]
		end := time.Now().Add(edgeTime)
		for caller := range edgeCallers {
			group.Go(func() {
				for time.Now().Before(end) && ctx.Err() == nil {
					ok, err := e.ask(ctx, caller)
					if err != nil {
						failure.CompareAndSwap(nil, &err)
						return
					}
					if ok {
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

// printEdges writes what was admitted of edgeLimit as a Markdown table.
func (b *bench) printEdges(w io.Writer) {
	if len(b.edges) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%d callers ask for one key with a limit of %d for %s:\n\n| what | admitted | beyond the limit |\n|---|---:|---:|\n", edgeCallers, edgeLimit, edgeTime)
	for _, e := range b.edges {
		fmt.Fprintf(w, "| %s | %d | %d |\n", e.name, e.taken, max(0, e.taken-edgeLimit))
	}
}
