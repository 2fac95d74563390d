// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Network is a network namespace for each node of a cluster, on one bridge that this
// process reaches, too. Packets between nodes can be dropped without a sign, as by a
// broken switch: nothing is refused, and this process still reaches all nodes.
//
// The bridge has its own namespace, where no firewall of this machine applies. A Network
// is safe for concurrent use by one cluster.
type Network struct {
	id    string // prefix of all names; short, because names of interfaces are
	net   int
	nodes int
}

// networkTimeout bounds each command. iptables waits for others that change rules.
const networkTimeout = 20 * time.Second

// NewNetwork creates the namespaces bench-1, bench-2 and so on. It needs root, iproute2
// and iptables, on Linux; the error says what is missing. Close removes everything.
func NewNetwork(nodes int) (*Network, error) {
	if nodes < 1 || nodes > maxNodes {
		return nil, fmt.Errorf("nodes: must be 1 to %d, got %d", maxNodes, nodes)
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root on Linux")
	}
	for _, tool := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("network namespaces need iproute2 and iptables: %w", err)
		}
	}
	n := &Network{id: fmt.Sprintf("bb%x", os.Getpid()&0xffff), net: os.Getpid() & 0xff, nodes: nodes}
	if err := n.create(); err != nil {
		return nil, errors.Join(fmt.Errorf("create network namespaces: %w", err), n.Close())
	}
	return n, nil
}

func (n *Network) create() error {
	sw := n.name("sw")
	commands := [][]string{
		{"netns", "add", sw},
		{"-n", sw, "link", "add", "br0", "type", "bridge"},
		{"-n", sw, "link", "set", "br0", "up"},
		{"link", "add", n.id, "type", "veth", "peer", "name", "p0", "netns", sw},
		{"-n", sw, "link", "set", "p0", "master", "br0", "up"},
		{"address", "add", n.host(254) + "/24", "dev", n.id},
		{"link", "set", n.id, "up"},
	}
	for i := range n.nodes {
		ns, port := n.name(nameOf(i+1)), fmt.Sprintf("p%d", i+1)
		commands = append(commands,
			[]string{"netns", "add", ns},
			[]string{"-n", ns, "link", "set", "lo", "up"},
			[]string{"link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", port, "netns", sw},
			[]string{"-n", sw, "link", "set", port, "master", "br0", "up"},
			[]string{"-n", ns, "address", "add", n.host(i+1) + "/24", "dev", "eth0"},
			[]string{"-n", ns, "link", "set", "eth0", "up"})
	}
	for _, args := range commands {
		if err := command("ip", args...); err != nil {
			return err
		}
	}
	return nil
}

// command runs a command that must succeed.
func command(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), networkTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// host returns the address of a node. They are for tests of networks (RFC 2544).
func (n *Network) host(node int) string { return fmt.Sprintf("198.18.%d.%d", n.net, node) }

func (n *Network) name(ns string) string { return n.id + ns }

// inside returns a command that executes another one in the namespace of a node. It
// replaces itself by the other one, so that signals reach that.
func (n *Network) inside(node string, command []string) []string {
	return append([]string{"ip", "netns", "exec", n.name(node)}, command...)
}

// Cut drops all packets between the nodes with these numbers and the others, in both
// directions. It takes some 20 ms, during which some are dropped already.
func (n *Network) Cut(side ...int) error { return n.change("--insert", side) }

// Heal ends a Cut of the same nodes.
func (n *Network) Heal(side ...int) error { return n.change("--delete", side) }

func (n *Network) change(action string, side []int) error {
	var group errgroup.Group
	for a := range n.nodes {
		var sources []string
		for b := range n.nodes {
			if slices.Contains(side, a+1) != slices.Contains(side, b+1) {
				sources = append(sources, n.host(b+1))
			}
		}
		if len(sources) == 0 {
			continue
		}
		args := n.inside(nameOf(a+1), []string{"iptables", "--wait", action, "INPUT", "--source", strings.Join(sources, ","), "--jump", "DROP"})
		group.Go(func() error { return command(args[0], args[1:]...) })
	}
	return group.Wait()
}

// Close removes the namespaces. Processes in them lose their network.
func (n *Network) Close() error {
	var problems []error
	for _, ns := range append([]string{"sw"}, n.nodeNames()...) {
		if _, err := os.Stat(filepath.Join("/run/netns", n.name(ns))); err == nil {
			problems = append(problems, command("ip", "netns", "delete", n.name(ns)))
		}
	}
	if err := command("ip", "link", "delete", n.id); err != nil && !strings.Contains(err.Error(), "Cannot find device") {
		problems = append(problems, err) // it goes with the namespace of the bridge, but later
	}
	return errors.Join(problems...)
}

func (n *Network) nodeNames() (names []string) {
	for i := range n.nodes {
		names = append(names, nameOf(i+1))
	}
	return names
}
