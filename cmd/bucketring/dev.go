// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/limiter/policy"
)

const (
	maxDevNodes = 9
	// portStep is the distance between the ports of two nodes.
	portStep = 10
)

func newDev(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a local cluster for trying things out",
		Long: `Run three nodes in one process, reachable from this machine only, with the built-in
policy. They enforce the same limits together, whichever node is called. Their state
is lost when they stop.

With --policy the nodes use that file and reload it when it changes. A file with
problems changes nothing; the problems are reported. If the file does not exist, it
is created with the built-in policy.

The first node has the default ports; those of each further node are higher by 10.
With port 0, each node listens on a free port.`,
		Example: `  bucketring dev
  bucketring dev --policy policy.yaml
  bucketring dev --nodes 1
  bucketring dev --http 127.0.0.1:7470 --grpc 127.0.0.1:7471 --gossip 127.0.0.1:7472`,
		Args: exactArgs(),
	}
	c := config.Default()
	c.Name, c.LogFormat = "dev-1", "text"
	flags := cmd.Flags()
	flags.StringVar(&c.Policy, "policy", "", "policy file or directory, or https://... or postgres://..., reloaded when it changes; a missing file is created (default: the built-in policy)")
	nodes := flags.Int("nodes", 3, "number of nodes, 1 to 9")
	flags.StringVar(&c.HTTP, "http", c.HTTP, "address of the first node for the JSON API, health and metrics")
	flags.StringVar(&c.GRPC, "grpc", c.GRPC, "address of the first node for the gRPC API")
	flags.StringVar(&c.Gossip, "gossip", c.Gossip, "address of the first node for cluster membership")
	flags.StringVar(&c.RESP, "resp", c.RESP, "address of the first node for the Redis protocol; empty means none")
	flags.StringVar(&c.LogLevel, "log-level", c.LogLevel, listChoices(config.Choices("log_level")))
	withChoices(flags, "log-level", config.Choices("log_level")...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *nodes < 1 || *nodes > maxDevNodes {
			return usageError(cmd, fmt.Errorf("--nodes: must be 1 to %d, got %d", maxDevNodes, *nodes), "")
		}
		if err := validateConfig(cmd, c); err != nil {
			return err
		}
		configs, err := devConfigs(c, *nodes)
		if err != nil {
			return usageError(cmd, err, "")
		}
		if c.Policy != "" && !strings.Contains(c.Policy, "://") {
			if err := s.writeMissing(c.Policy); err != nil {
				return err
			}
		}
		return s.runDev(cmd.Context(), configs, s.logger(c.LogFormat, c.LogLevel))
	}
	return cmd
}

// devConfigs returns the configurations of n nodes, derived from that of the first.
func devConfigs(first *config.Config, n int) ([]*config.Config, error) {
	configs := make([]*config.Config, n)
	for i := range configs {
		c := *first
		c.Name = "dev-" + strconv.Itoa(i+1)
		for _, field := range []struct {
			flag    string
			address *string
		}{{"http", &c.HTTP}, {"grpc", &c.GRPC}, {"gossip", &c.Gossip}, {"resp", &c.RESP}} {
			if *field.address == "" {
				continue
			}
			shifted, err := shiftPort(*field.address, i*portStep)
			if err != nil {
				return nil, fmt.Errorf("--%s: %s of node %d of %d: %w", field.flag, *field.address, i+1, n, err)
			}
			*field.address = shifted
		}
		configs[i] = &c
	}
	return configs, nil
}

// shiftPort adds to the port of an address, unless it is 0.
func shiftPort(address string, by int) (string, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return "", err
	}
	if port == 0 {
		return address, nil
	}
	if port += by; port > 65535 {
		return "", errors.New("the port is above 65535")
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// devCluster runs nodes in this process.
type devCluster struct {
	log   *slog.Logger
	group *errgroup.Group
	nodes []*node.Node
}

// runDev runs nodes until a signal arrives.
func (s *streams) runDev(ctx context.Context, configs []*config.Config, log *slog.Logger) error {
	started := make(chan []*node.Node, 1) // all nodes, once they run
	ctx, stop := onSignals(ctx, func() {
		select {
		case nodes := <-started:
			for _, n := range nodes {
				n.Reload()
			}
			started <- nodes
		default: // they are starting and read everything anyway
		}
	})
	defer stop()
	defer s.paceGC(context.WithoutCancel(ctx))()
	group, ctx := errgroup.WithContext(ctx)
	c := &devCluster{log: log, group: group}
	if err := c.start(ctx, configs); err != nil {
		group.Go(func() error { return err }) // stops the nodes
	} else if ctx.Err() == nil {
		started <- c.nodes
		s.notef("%s", welcome(c.nodes, configs[0].Policy))
	}
	return addPortHint(group.Wait())
}

// start runs the first node and, once others can reach it, the others, which join it. It
// returns when every node serves and sees all others, or when ctx is done.
func (c *devCluster) start(ctx context.Context, configs []*config.Config) error {
	for i, conf := range configs {
		if i > 0 {
			conf.Join = []string{c.nodes[0].GossipAddr()}
		}
		if err := c.add(ctx, conf, len(configs)); err != nil {
			return err
		}
		if i == 0 {
			if err := c.nodes[0].AwaitMembers(ctx, 1); err != nil {
				return nil // the node stopped; its Run returns the reason
			}
		}
	}
	for _, n := range c.nodes {
		if err := n.AwaitReady(ctx); err != nil {
			return nil
		}
	}
	return nil
}

func (c *devCluster) add(ctx context.Context, conf *config.Config, members int) error {
	n, err := node.New(node.Options{Config: conf, Logger: c.log.With("node", conf.Name), ExpectedMembers: members, SkipLeave: true})
	if err != nil {
		return err
	}
	c.nodes = append(c.nodes, n)
	c.group.Go(func() error { return n.Run(ctx) })
	return nil
}

// writeMissing writes the built-in policy to path if no file exists there.
func (s *streams) writeMissing(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return errorWithHint(fmt.Errorf("write the built-in policy: %w", err), "")
	}
	_, err = f.WriteString(policy.DefaultYAML())
	if err := errors.Join(err, f.Close()); err != nil {
		return errorWithHint(fmt.Errorf("write the built-in policy: %w", err), "")
	}
	s.notef("wrote the built-in policy to %s\n", path)
	return nil
}

// welcome describes the running nodes and suggests commands.
func welcome(nodes []*node.Node, policyPath string) string {
	limits := "to change limits while it runs, start it with: bucketring dev --policy policy.yaml"
	if policyPath != "" {
		limits = "to change limits, edit and save " + policyPath
	}
	first := nodes[0]
	server, status := "", ""
	if address := first.GRPCAddr(); address != defaultServer {
		server = " --server " + address
	}
	if address := first.HTTPAddr(); address != defaultHTTP {
		status = " --http " + address
	}
	var b strings.Builder
	what := strconv.Itoa(len(nodes)) + " nodes that share their limits"
	if len(nodes) == 1 {
		what = "1 node"
	}
	fmt.Fprintf(&b, "\nbucketring is ready: %s. State is lost when it stops.\n\n", what)
	for _, n := range nodes {
		fmt.Fprintf(&b, "  %s  http://%-15s  gRPC %-15s  status http://%[2]s/status\n", n.Name(), n.HTTPAddr(), n.GRPCAddr())
	}
	const body = `/v1/check -d '{"key":"acme/alice","tier":"free","input_tokens":1200}'`
	fmt.Fprintf(&b, "\ntry: curl -si %s%s\n", first.HTTPAddr(), body)
	if len(nodes) > 1 {
		fmt.Fprintf(&b, "     curl -si %s%s   # the same limits\n", nodes[1].HTTPAddr(), body)
	}
	fmt.Fprintf(&b, "     bucketring check acme/alice --tier free --input-tokens 1200%s\n", server)
	fmt.Fprintf(&b, "     bucketring keys acme globex initech%s\n", server)
	fmt.Fprintf(&b, "     bucketring status%s\n", status)
	fmt.Fprintf(&b, "%s; stop with Ctrl-C\n\n", limits)
	return b.String()
}
