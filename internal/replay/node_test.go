// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/server"
)

// policyYAML is the built-in policy under an organisation's limits, so that
// every algorithm and two levels of keys decide together.
const policyYAML = `
tiers:
  free:       { requests: 10/min,  tokens: 10_000/min,    concurrent: 2,  spend: $1/day  }
  standard:   { requests: 60/min,  tokens: 100_000/min,   concurrent: 10, spend: $50/day }
  enterprise: { requests: 300/min, tokens: 1_000_000/min, concurrent: 50 }
  org:
    zone: America/New_York
    limits:
      - { name: org-tpm, dimension: tokens, limit: 30_000, window: 1m, burst: 10_000, on_exceed: degrade }
      - { name: org-rpm, dimension: requests, limit: 18, window: 1m, algorithm: sliding_window }
      - { name: org-spend, dimension: spend, limit: $0.50, window: hour }
default_tier: free
assign:
  - { key: "org*", tier: org }
prices:
  llama-3-70b: { input: 0.60, cached_input: 0.15, output: 0.80 }
`

// epoch is the wall clock at the first call of the trace.
var epoch = time.Date(2023, 11, 16, 18, 15, 46, 680_590_000, time.UTC)

// clock is the time of the node: epoch and so far into the trace.
type clock struct{ offset atomic.Int64 }

func (c *clock) set(at time.Duration) { c.offset.Store(int64(at)) }

func (c *clock) now() limiter.Time { return timeAt(time.Duration(c.offset.Load())) }

func timeAt(at time.Duration) limiter.Time {
	return limiter.Time{Mono: int64(at), Wall: epoch.UnixNano() + int64(at)}
}

// startNode serves gRPC on loopback, with virtual time, and returns a client of it.
func startNode() (*client.Client, *clock, func() error, error) {
	catalog := limiter.NewCatalog()
	compiled, err := policy.Parse("policy.yaml", []byte(policyYAML), catalog)
	if err != nil {
		return nil, nil, nil, err
	}
	clock := &clock{}
	service := server.New(server.Options{
		Engine: limiter.New(limiter.Options{Catalog: catalog}),
		Policy: func() server.Policy { return compiled },
		Now:    clock.now,
		Name:   "replay",
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, fmt.Errorf("listen: %w", err)
	}
	grpc := server.NewGRPC(service, server.GRPCOptions{})
	ended := make(chan error, 1) // the end of Serve
	go func() { ended <- grpc.Serve(listener) }()
	c, err := client.Dial(client.Options{Addrs: []string{listener.Addr().String()}, Timeout: 10 * time.Second})
	if err != nil {
		grpc.Stop()
		return nil, nil, nil, err
	}
	stop := func() error {
		err := c.Close()
		grpc.Stop()
		return errors.Join(err, <-ended)
	}
	return c, clock, stop, nil
}
