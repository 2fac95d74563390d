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
	// portStep is how far apart the ports of two nodes are.
	portStep = 10
)

func newDev(s *streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a cluster to try things out, with nothing to configure",
		Long: `Run three nodes in one process, on this machine only, with the built-in policy
and nothing to configure. They are one limiter, whichever of them is asked, and
forget everything when they end.

With --policy they read that file and go on watching it: a change of a limit is
in force as soon as the file is saved, and a mistake changes nothing and is
reported. A file that does not exist is first written, from the built-in policy.

The first node has the ports that every example uses; those of each further node
are higher by 10. With port 0, every node takes a free one.`,
		Example: `  bucketring dev
  bucketring dev --policy policy.yaml
  bucketring dev --nodes 1
  bucketring dev --http 127.0.0.1:7470 --grpc 127.0.0.1:7471 --gossip 127.0.0.1:7472`,
		Args: arguments(),
	}
	c := config.Default()
	c.Name, c.LogFormat = "dev-1", "text"
	flags := cmd.Flags()
	flags.StringVar(&c.Policy, "policy", "", "policy file or directory to watch; a missing file is written (default: the built-in policy)")
	nodes := flags.Int("nodes", 3, "nodes to run, 1 to 9")
	flags.StringVar(&c.HTTP, "http", c.HTTP, "address of the first node's JSON API, health and metrics")
	flags.StringVar(&c.GRPC, "grpc", c.GRPC, "address of the first node's gRPC API")
	flags.StringVar(&c.Gossip, "gossip", c.Gossip, "address of the first node's cluster membership")
	flags.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *nodes < 1 || *nodes > maxDevNodes {
			return misused(cmd, fmt.Errorf("--nodes: must be 1 to %d, got %d", maxDevNodes, *nodes), "")
		}
		if err := invalidConfig(cmd, c); err != nil {
			return err
		}
		configs, err := devConfigs(c, *nodes)
		if err != nil {
			return misused(cmd, err, "")
		}
		if c.Policy != "" {
			if err := s.writeMissing(c.Policy); err != nil {
				return err
			}
		}
		return s.runDev(cmd.Context(), configs, s.logger(c.LogFormat, c.LogLevel))
	}
	return cmd
}

// devConfigs derives the configurations of n nodes from that of the first. All
// but the first join it.
func devConfigs(first *config.Config, n int) ([]*config.Config, error) {
	configs := make([]*config.Config, n)
	for i := range configs {
		c := *first
		c.Name = "dev-" + strconv.Itoa(i+1)
		for _, field := range []struct {
			flag    string
			address *string
		}{{"http", &c.HTTP}, {"grpc", &c.GRPC}, {"gossip", &c.Gossip}} {
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

// shiftPort adds to the port of a valid address, unless that is 0.
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
		return "", errors.New("there is no such port")
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// devCluster is nodes in this process.
type devCluster struct {
	log   *slog.Logger
	group *errgroup.Group
	nodes []*node.Node
}

// runDev runs nodes until a signal ends them.
func (s *streams) runDev(ctx context.Context, configs []*config.Config, log *slog.Logger) error {
	made := make(chan []*node.Node, 1) // all of them, once they run
	ctx, stop := onSignals(ctx, func() {
		select {
		case nodes := <-made:
			for _, n := range nodes {
				n.Reload()
			}
			made <- nodes
		default: // they have just read everything
		}
	})
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	c := &devCluster{log: log, group: group}
	if err := c.start(ctx, configs); err != nil {
		group.Go(func() error { return err }) // ends the others
	} else if ctx.Err() == nil {
		made <- c.nodes
		s.note("%s", welcome(c.nodes, configs[0].Policy))
	}
	return portTaken(group.Wait())
}

// start runs the first node, and when that is ready the others, which join it.
// It returns when each sees all of them, or when ctx is done.
func (c *devCluster) start(ctx context.Context, configs []*config.Config) error {
	for i, conf := range configs {
		if i > 0 {
			conf.Join = []string{c.nodes[0].GossipAddr()}
		}
		if err := c.add(ctx, conf, len(configs)); err != nil {
			return err
		}
		if i == 0 {
			if err := c.nodes[0].AwaitServing(ctx, 1); err != nil {
				return nil // it was ended, and says why
			}
		}
	}
	for _, n := range c.nodes {
		if err := n.AwaitServing(ctx, len(configs)); err != nil {
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

// writeMissing writes the built-in policy to a path where there is nothing.
func (s *streams) writeMissing(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return failed(fmt.Errorf("write the built-in policy: %w", err), "")
	}
	_, err = f.WriteString(policy.DefaultYAML())
	if err := errors.Join(err, f.Close()); err != nil {
		return failed(fmt.Errorf("write the built-in policy: %w", err), "")
	}
	s.note("wrote the built-in policy to %s\n", path)
	return nil
}

// welcome says what to do next.
func welcome(nodes []*node.Node, policyPath string) string {
	limits := "to change limits while it runs: bucketring dev --policy policy.yaml"
	if policyPath != "" {
		limits = "edit " + policyPath + " and save it: the limits change at once"
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
	what := "one limiter, whichever of its " + strconv.Itoa(len(nodes)) + " nodes you ask"
	if len(nodes) == 1 {
		what = "a limiter of one node"
	}
	fmt.Fprintf(&b, "\nbucketring is ready: %s. It keeps nothing: state is gone when it ends.\n\n", what)
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
