// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/node"
)

func newServe(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: `Run a node until it is interrupted. It then turns unready, leaves its keys to the
other members, waits for the drain delay, lets calls in progress finish, says
goodbye, and saves its state. A second interrupt ends it at once; SIGHUP reloads
the policy, the rules for Envoy and the cluster keys.

Nodes that are told of each other with --join are one limiter, whichever is
asked. They find all others through one that they can reach, so any two or three
will do; all may have the same list. A node without --join starts a cluster.

With --proxy-listen a node is also a proxy in front of a model server: see
"bucketring proxy".

Every setting is a flag, an environment variable (BUCKETRING_HTTP for --http) and
a key of the file given with --config (log_level for --log-level). A flag wins
over the environment, and the environment over the file.

HTTP and gRPC listen beyond loopback only if --insecure says so, gossip only with
--cluster-key-file or --insecure, and the address for Envoy only with
--envoy-cert-file, --envoy-key-file and --envoy-ca-file or --insecure.`,
		Example: `  bucketring serve
  bucketring serve --name node1 --http :6470 --grpc :6471 --gossip :6472 --join node1,node2,node3 --cluster-key-file cluster.key --insecure
  bucketring serve --policy policy.yaml --data /var/lib/bucketring
  bucketring serve --config node.yaml --print-config`,
		Args: arguments(),
	}
	config.AddFlags(cmd.Flags())
	printConfig := cmd.Flags().Bool("print-config", false, "print every setting and where it came from, and exit")
	output := addFormat(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, settings, err := config.Load(cmd.Flags(), s.lookupEnv)
		if err != nil {
			return misused(cmd, err, "")
		}
		if *printConfig {
			if err := s.settings(settings, *output); err != nil {
				return err
			}
			return invalidConfig(cmd, c)
		}
		if err := invalidConfig(cmd, c); err != nil {
			return err
		}
		log := s.logger(c.LogFormat, c.LogLevel)
		return s.run(cmd.Context(), c, log, func(n *node.Node) {
			if s.errTTY && c.LogFormat != "json" {
				s.note("%s", urls(n))
			}
		})
	}
	return cmd
}

func invalidConfig(cmd *cobra.Command, c *config.Config) error {
	if err := c.Validate(); err != nil {
		return misused(cmd, err, "")
	}
	return nil
}

func (s *streams) settings(settings []config.Setting, output format) error {
	if output == formatJSON {
		return s.json(settings)
	}
	return config.Print(s.out, settings)
}

// run makes a node and runs it until a signal ends it.
func (s *streams) run(ctx context.Context, c *config.Config, log *slog.Logger, onReady func(*node.Node)) error {
	var made atomic.Pointer[node.Node]
	ctx, stop := onSignals(ctx, func() {
		if n := made.Load(); n != nil {
			n.Reload()
		}
	})
	defer stop()
	n, err := node.New(node.Options{Config: c, Logger: log, OnReady: onReady})
	if err != nil {
		return portTaken(err)
	}
	made.Store(n)
	return portTaken(n.Run(ctx))
}

// portTaken adds advice to an error that comes from a port in use.
func portTaken(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return failed(err, "is another node running here? stop it, or give this one other addresses with --http, --grpc and --gossip")
	}
	return err
}

// urls is where a node answers.
func urls(n *node.Node) string {
	text := fmt.Sprintf("  HTTP     http://%s\n  status   http://%[1]s/status\n  metrics  http://%[1]s/metrics\n  gRPC     %s\n  gossip   %s\n", n.HTTPAddr(), n.GRPCAddr(), n.GossipAddr())
	if proxy := n.ProxyAddr(); proxy != "" {
		text += "  proxy    http://" + proxy + "\n"
	}
	return text
}
