// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/ring"
)

// lookupTimeout bounds the resolution of a host name at start.
const lookupTimeout = 5 * time.Second

// newCluster returns this node's membership, which is not running yet. The
// listeners for gRPC and HTTP must be open, because their ports are announced.
func (n *Node) newCluster() (*cluster.Cluster, error) {
	c := n.config
	bind, err := lookupAddress(c.Gossip)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	var advertise netip.AddrPort
	if c.Advertise != "" {
		host, port, err := config.SplitAdvertise(c.Advertise)
		if err != nil {
			return nil, fmt.Errorf("advertise: %w", err)
		}
		ip, err := lookupHost(host)
		if err != nil {
			return nil, fmt.Errorf("advertise: %w", err)
		}
		advertise = netip.AddrPortFrom(ip, port)
	}
	if err := checkListen(bind); err != nil {
		return nil, fmt.Errorf("listen for gossip: %w", err)
	}
	return cluster.New(cluster.Options{
		Name: c.Name, Boot: n.boot,
		Bind: bind, Advertise: advertise, GRPC: portOf(n.grpcListener), HTTP: portOf(n.httpListener), TLS: n.config.TLS.On(), Vouch: n.vouch(),
		Seeds: c.Join, Label: c.Cluster, Keys: n.keys.current(), Insecure: c.Insecure,
		Ring: cluster.ID(ring.Layout()), Policy: cluster.ID(n.policies.Current().Version()),
		Logger: n.log, Registry: n.registry, Connections: n.connections.metrics,
	})
}

// newBoot returns the identity of this run of the process.
func newBoot(now time.Time) cluster.Boot {
	return cluster.Boot{ID: cluster.ID(cmp.Or(rand.Uint64(), 1)), Started: now}
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

// checkListen returns an error if gossip will not be able to listen, which it
// otherwise finds out only when it runs.
func checkListen(address netip.AddrPort) error {
	if address.Port() == 0 {
		return nil // gossip will pick a free one
	}
	tcp, err := net.Listen("tcp", address.String())
	if err != nil {
		return err
	}
	_ = tcp.Close()
	udp, err := net.ListenPacket("udp", address.String())
	if err != nil {
		return err
	}
	_ = udp.Close()
	return nil
}

// lookupAddress resolves host:port to an address to listen on. An empty host means
// all IPv4 addresses of this machine.
func lookupAddress(address string) (netip.AddrPort, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q: %w", text, err)
	}
	ip := netip.IPv4Unspecified()
	if host != "" {
		if ip, err = lookupHost(host); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return netip.AddrPortFrom(ip, uint16(port)), nil
}

// lookupHost returns an address of host, preferably IPv4.
func lookupHost(host string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look up host %q: %w", host, err)
	}
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.Is4() {
			return ip, nil
		}
	}
	return ips[0], nil
}
