// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/node"
)

func newServe(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: `Run a node until it is interrupted. It then turns unready, waits for the drain
delay, lets calls in progress finish, and saves its state. A second interrupt
ends it at once; SIGHUP reloads the policy.

Every setting is a flag, an environment variable (BUCKETRING_HTTP for --http) and
a key of the file given with --config (log_level for --log-level). A flag wins
over the environment, and the environment over the file.

Nothing listens beyond loopback unless --insecure says so.`,
		Example: `  bucketring serve
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
		return err
	}
	made.Store(n)
	return n.Run(ctx)
}

// urls is where a node answers.
func urls(n *node.Node) string {
	return fmt.Sprintf("  HTTP     http://%s\n  status   http://%[1]s/status\n  metrics  http://%[1]s/metrics\n  gRPC     %s\n", n.HTTPAddr(), n.GRPCAddr())
}
