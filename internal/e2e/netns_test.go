// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// network has network namespaces on one bridge, which the test can reach, too. The
// bridge has its own namespace, where no firewall of this machine applies.
//
//	test -- sw (bridge) +- n1
//	                    +- n2
//	                    +- n3, over a wire with configurable loss and delay
type network struct {
	id    string // prefix of all names; short, because names of interfaces are
	wires map[string]*wire
	net   int
}

// newNetwork needs root and iproute2. The test fails without them, so that it cannot
// be skipped by accident.
func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{id: fmt.Sprintf("br%x", os.Getpid()&0xffff), wires: map[string]*wire{}, net: os.Getpid() & 0xff}
	n.namespace(t, "sw")
	n.in(t, "sw", "link", "add", "br0", "type", "bridge")
	n.in(t, "sw", "link", "set", "br0", "up")
	n.plug(t, "")
	must(t, "ip", "address", "add", n.ip(254)+"/24", "dev", n.id)
	must(t, "ip", "link", "set", n.id, "up")
	return n
}

func (n *network) ip(host int) string { return fmt.Sprintf("198.18.%d.%d", n.net, host) } // RFC 2544: for tests

func (n *network) name(ns string) string { return n.id + ns }

// in runs ip in a namespace.
func (n *network) in(t *testing.T, ns string, args ...string) {
	t.Helper()
	must(t, "ip", append([]string{"-n", n.name(ns)}, args...)...)
}

func (n *network) namespace(t *testing.T, ns string) {
	t.Helper()
	must(t, "ip", "netns", "add", n.name(ns))
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "delete", n.name(ns)).CombinedOutput(); err != nil {
			t.Errorf("delete namespace %s: %v\n%s", n.name(ns), err, out)
		}
	})
	n.in(t, ns, "link", "set", "lo", "up")
}

// plug connects a namespace, or the test if ns is "", to the bridge.
func (n *network) plug(t *testing.T, ns string) {
	t.Helper()
	port := "p" + ns
	if ns == "" {
		must(t, "ip", "link", "add", n.id, "type", "veth", "peer", "name", port, "netns", n.name("sw"))
		t.Cleanup(func() { // deleted with the bridge's namespace, unless the test failed before
			if out, err := exec.Command("ip", "link", "delete", n.id).CombinedOutput(); err != nil && !strings.Contains(string(out), "Cannot find device") {
				t.Errorf("delete interface %s: %v\n%s", n.id, err, out)
			}
		})
	} else {
		must(t, "ip", "link", "add", "eth0", "netns", n.name(ns), "type", "veth", "peer", "name", port, "netns", n.name("sw"))
	}
	n.in(t, "sw", "link", "set", port, "master", "br0", "up")
}

// plugWire connects a namespace to the bridge by a wire.
func (n *network) plugWire(t *testing.T, ns string) {
	t.Helper()
	w := newWire(t, n.name(ns)+"a", n.name(ns)+"b")
	must(t, "ip", "link", "set", w.near, "netns", n.name(ns), "name", "eth0")
	must(t, "ip", "link", "set", w.far, "netns", n.name("sw"))
	n.in(t, "sw", "link", "set", w.far, "master", "br0", "up")
	n.wires[ns] = w
}

// host creates a namespace with one address on the bridge.
func (n *network) host(t *testing.T, ns string, number int, wired bool) {
	t.Helper()
	n.namespace(t, ns)
	if wired {
		n.plugWire(t, ns)
	} else {
		n.plug(t, ns)
	}
	n.in(t, ns, "address", "add", n.ip(number)+"/24", "dev", "eth0")
	n.in(t, ns, "link", "set", "eth0", "up")
}

// inside returns a command that executes another one in a namespace.
func (n *network) inside(ns string, command ...string) []string {
	return append([]string{"ip", "netns", "exec", n.name(ns)}, command...)
}
