// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/node"
)

// benchPolicy never denies, since only the round trip is measured.
const benchPolicy = `tiers:
  one:  { requests: 9_000_000_000_000/min }
  four: { requests: 9_000_000_000_000/min, tokens: 9_000_000_000_000/min, concurrent: 9_000_000_000, spend: $900_000_000/day }
  hot:      { limits: [ { dimension: requests, limit: 9_000_000_000_000, window: 1m, slices: clients } ] }
  off:      { limits: [ { dimension: requests, limit: 9_000_000_000_000, window: 1m, slices: off } ] }
  hot-edge: { limits: [ { dimension: requests, limit: 10_000, window: day, slices: clients } ] }
  off-edge: { limits: [ { dimension: requests, limit: 10_000, window: day, slices: off } ] }
assign:
  - { key: "org-*", tier: four }
default_tier: four
prices:
  "*": { input: 0.01, output: 0.01 }
`

func writePolicy(dir string) (path string, err error) {
	path = filepath.Join(dir, "policy.yaml")
	return path, os.WriteFile(path, []byte(benchPolicy), 0o644)
}

// serveChild is the main function of a child.
func serveChild(args []string) error {
	switch args[0] {
	case "echo":
		return serveEcho()
	case "node":
		return serveNode(args[1:])
	}
	return fmt.Errorf("unknown child: %q", args[0])
}

// serveNode runs a node in a child. args are key=value settings.
func serveNode(args []string) error {
	c := config.Default()
	c.MaxIDs = 1 << 23
	c.DrainDelay = 0
	profiles := ""
	for _, arg := range args {
		switch key, value, _ := strings.Cut(arg, "="); key {
		case "name":
			c.Name = value
		case "grpc":
			c.GRPC = value
		case "http":
			c.HTTP = value
		case "gossip":
			c.Gossip = value
		case "policy":
			c.Policy = value
		case "join":
			c.Join = []string{value}
		case "profiles":
			profiles = value
		default:
			return fmt.Errorf("unknown setting: %q", arg)
		}
	}
	if err := c.Validate(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var readyErr error
	n, err := node.New(node.Options{
		Config: c, SkipLeave: true, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		OnReady: func(n *node.Node) { readyErr = announce(n.GRPCAddr()) },
	})
	if err != nil {
		return err
	}
	stopProfile, err := profile(profiles, c.Name)
	if err != nil {
		return errors.Join(err, n.Close())
	}
	defer stopProfile()
	return errors.Join(n.Run(ctx), readyErr)
}

// startNodes starts a cluster of n members.
func startNodes(ctx context.Context, n int, policy, profiles string) ([]*child, error) {
	gossip := make([]string, n)
	for i := range gossip {
		port, err := freeport.Pick()
		if err != nil {
			return nil, err
		}
		gossip[i] = freeport.Address(port)
	}
	var nodes []*child
	for i := range n {
		args := []string{
			"node", fmt.Sprintf("name=node-%d", i+1), "policy=" + policy, "profiles=" + profiles, "http=127.0.0.1:0", "grpc=127.0.0.1:0",
			"gossip=" + gossip[i],
		}
		if i > 0 {
			args = append(args, "join="+gossip[0])
		}
		c, err := spawn(ctx, args...)
		if err != nil {
			for _, c := range nodes {
				c.stop()
			}
			return nil, err
		}
		nodes = append(nodes, c)
	}
	return nodes, nil
}
