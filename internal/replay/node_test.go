// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/client"
)

// policyYAML is the built-in policy plus limits of organisations, so that it uses
// every algorithm and two levels of keys.
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

// clock is the virtual time of the node: epoch plus an offset.
type clock struct{ offset atomic.Int64 }

func (c *clock) set(at time.Duration) { c.offset.Store(int64(at)) }

func (c *clock) now() limiter.Time { return timeAt(time.Duration(c.offset.Load())) }

func timeAt(at time.Duration) limiter.Time {
	return limiter.Time{Mono: int64(at), Wall: epoch.UnixNano() + int64(at)}
}

// startNode runs a node on loopback in virtual time, with its policy in dir, and
// returns a client.
func startNode(dir string) (*client.Client, *clock, func() error, error) {
	file := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(file, []byte(policyYAML), 0o600); err != nil {
		return nil, nil, nil, err
	}
	c := config.Default()
	c.Name, c.HTTP, c.GRPC, c.Policy = "replay", "127.0.0.1:0", "127.0.0.1:0", file
	clock := &clock{}
	n, err := node.New(node.Options{Config: c, Now: clock.now})
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1) // the result of Run
	go func() { ended <- n.Run(ctx) }()
	nodeClient, err := client.Dial(client.Options{Addrs: []string{n.GRPCAddr()}, Timeout: 10 * time.Second})
	if err != nil {
		cancel()
		return nil, nil, nil, errors.Join(err, <-ended)
	}
	stop := func() error {
		err := nodeClient.Close()
		cancel()
		return errors.Join(err, <-ended)
	}
	return nodeClient, clock, stop, nil
}
