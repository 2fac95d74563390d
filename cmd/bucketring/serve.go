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
		Long: `Run a node until it receives SIGINT or SIGTERM. It then becomes unready, hands its
keys over to the other members, waits for --drain-delay, lets calls in progress
finish, leaves the cluster and saves its state. A second signal stops it at once.
SIGHUP reloads the policy, the rules for Envoy and the cluster keys.

Nodes that join each other with --join enforce the same limits together, whichever
node is called. They discover all members through any that they can reach, so two or
three are enough, and all nodes may have the same list. A node without --join starts
a cluster.

With --proxy-listen a node also runs a proxy in front of a model server: see
"bucketring proxy".

Every setting is a flag, an environment variable (BUCKETRING_HTTP for --http) and
a key of the file given with --config (log_level for --log-level). A flag takes
precedence over the environment, and the environment over the file.

With --tls required, listeners take TLS only, and members show each other certificates
with their names: see "bucketring certs". With --tls optional they take plaintext, too.

To listen on other than loopback addresses, --http, --grpc and --resp need --tls required with
--tls-client-auth require, or --insecure, --gossip needs --cluster-key-file or --insecure, and --envoy-listen needs
--envoy-cert-file, --envoy-key-file and --envoy-ca-file, or --insecure.`,
		Example: `  bucketring serve
  bucketring serve --name node1 --http :6470 --grpc :6471 --gossip :6472 --join node1,node2,node3 --cluster-key-file cluster.key --insecure
  bucketring serve --name node1 --tls required --tls-ca-file certs/ca.crt --tls-cert-file certs/node1.crt --tls-key-file certs/node1.key
  bucketring serve --policy policy.yaml --data /var/lib/bucketring
  bucketring serve --config node.yaml --print-config`,
		Args: exactArgs(),
	}
	config.AddFlags(cmd.Flags())
	printConfig := cmd.Flags().Bool("print-config", false, "print every setting and its source, and exit")
	output := addFormat(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, settings, err := config.Load(cmd.Flags(), s.lookupEnv)
		if err != nil {
			return usageError(cmd, err, "")
		}
		if *printConfig {
			if err := s.printSettings(settings, *output); err != nil {
				return err
			}
			return validateConfig(cmd, c)
		}
		if err := validateConfig(cmd, c); err != nil {
			return err
		}
		log := s.logger(c.LogFormat, c.LogLevel)
		s.warnEnvironment(log)
		return s.runNode(cmd.Context(), c, log, func(n *node.Node) {
			if s.errTTY && c.LogFormat != "json" {
				s.notef("%s", urls(n))
			}
		})
	}
	return cmd
}

func validateConfig(cmd *cobra.Command, c *config.Config) error {
	if err := c.Validate(); err != nil {
		return usageError(cmd, err, "")
	}
	return nil
}

func (s *streams) printSettings(settings []config.Setting, output format) error {
	if output == formatJSON {
		return s.writeJSON(settings)
	}
	return config.Print(s.out, settings)
}

// runNode runs a node until a signal arrives.
func (s *streams) runNode(ctx context.Context, c *config.Config, log *slog.Logger, onReady func(*node.Node)) error {
	var running atomic.Pointer[node.Node]
	ctx, stop := onSignals(ctx, func() {
		if n := running.Load(); n != nil {
			n.Reload()
		}
	})
	defer stop()
	defer s.paceGC(context.WithoutCancel(ctx))()
	n, err := node.New(node.Options{Config: c, Logger: log, OnReady: onReady})
	if err != nil {
		return addPortHint(err)
	}
	running.Store(n)
	return addPortHint(n.Run(ctx))
}

// addPortHint adds a hint to the error of a port that is in use.
func addPortHint(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return errorWithHint(err, "stop the process that listens there, or give this node other addresses with --http, --grpc and --gossip")
	}
	return err
}

// urls lists the addresses of a node.
func urls(n *node.Node) string {
	scheme := "http"
	if n.TLS() {
		scheme = "https"
	}
	text := fmt.Sprintf("  HTTP     %[1]s://%[2]s\n  status   %[1]s://%[2]s/status\n  metrics  %[1]s://%[2]s/metrics\n  gRPC     %[3]s\n  gossip   %[4]s\n", scheme, n.HTTPAddr(), n.GRPCAddr(), n.GossipAddr())
	if address := n.RESPAddr(); address != "" {
		text += "  Redis    " + address + "\n"
	}
	if proxy := n.ProxyAddr(); proxy != "" {
		text += "  proxy    " + scheme + "://" + proxy + "\n"
	}
	return text
}
