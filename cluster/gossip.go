// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// remember is how long a member that crashed is asked to come back.
const remember = 24 * time.Hour

// How gossip goes. Detection of a crash takes up to a probe interval until the
// node is probed, one until it is suspected, and suspicionMult intervals (more
// from 11 members on) until it counts as dead, if others agree: 3 s.
const (
	probeInterval = 500 * time.Millisecond
	probeTimeout  = 200 * time.Millisecond
	suspicionMult = 4

	// A node that thinks it is ill itself gives others more time: up to
	// suspicionMaxMult times as much for a suspect, and up to worstHealth more
	// intervals for each probe. A node that is cut off thinks so, too. With
	// memberlist's 6 and 7, one of nine takes 27 s to see that it has lost the
	// majority; so it takes 9 s, see TestIsolatedNodeNotices.
	suspicionMaxMult = 2
	worstHealth      = 1

	// News goes out retransmitMult x ceil(log10(n+1)) times, acks to whoever
	// brought it included. With memberlist's 4, one update in 200 misses one of
	// five members even if nothing is lost, and that one lags until it exchanges
	// state: 15 s or more. See TestUpdatesReachEverybody.
	retransmitMult = 8

	pushPullInterval = 15 * time.Second
	streamTimeout    = 2 * time.Second // to dial, and again to exchange state
	reclaimTime      = time.Second
	packetSize       = 1200 // goes through overlays and VPNs
	handoffQueue     = 4096
)

// How views go. See [pace].
const (
	quietTime = 300 * time.Millisecond
	limitTime = 2 * time.Second
)

// gossipConfig is what memberlist needs besides a transport.
func (c *Cluster) gossipConfig() *memberlist.Config {
	conf := memberlist.DefaultLANConfig()
	conf.Name = nodeName(c.options.Slot, c.options.Boot.ID)
	conf.Label = c.options.Label
	conf.Logger = log.New(c.gossipLog, "", 0)

	conf.ProbeInterval, conf.ProbeTimeout, conf.SuspicionMult = probeInterval, probeTimeout, suspicionMult
	conf.PushPullInterval, conf.TCPTimeout = pushPullInterval, streamTimeout
	conf.RetransmitMult = retransmitMult
	conf.SuspicionMaxTimeoutMult, conf.AwarenessMaxMultiplier = suspicionMaxMult, worstHealth+1
	conf.DeadNodeReclaimTime = reclaimTime
	conf.EnableCompression = false
	conf.UDPBufferSize, conf.HandoffQueueDepth = packetSize, handoffQueue

	conf.Keyring = c.keyring
	conf.GossipVerifyIncoming = !c.options.AcceptPlaintext
	conf.GossipVerifyOutgoing = !c.options.SendPlaintext

	conf.Delegate, conf.Events, conf.Alive, conf.Merge = c.observer, c.observer, c.observer, c.observer
	return conf
}

// startGossip opens the sockets, unless there is a transport, and begins to
// answer. It returns where others can reach this node.
func (c *Cluster) startGossip() (*memberlist.Memberlist, netip.AddrPort, error) {
	conf := c.gossipConfig()
	conf.Transport = c.options.Transport
	if conf.Transport == nil {
		transport, err := c.listen(conf)
		if err != nil {
			return nil, netip.AddrPort{}, err
		}
		conf.Transport = transport
	}
	list, err := memberlist.Create(conf)
	if err != nil {
		_ = conf.Transport.Shutdown() // memberlist leaves it open
		return nil, netip.AddrPort{}, fmt.Errorf("start gossip: %w", err)
	}
	// Nobody else has list yet, and only UpdateNode changes the address.
	local := list.LocalNode()
	ip, _ := netip.AddrFromSlice(local.Addr)
	return list, netip.AddrPortFrom(ip.Unmap(), local.Port), nil
}

// listen opens the sockets and completes conf with their address.
func (c *Cluster) listen(conf *memberlist.Config) (memberlist.Transport, error) {
	bind, advertise := c.options.Bind, c.options.Advertise
	conf.BindAddr, conf.BindPort = bind.Addr().Unmap().String(), int(bind.Port())
	nc := &memberlist.NetTransportConfig{BindAddrs: []string{conf.BindAddr}, BindPort: conf.BindPort, Logger: conf.Logger}
	// A free port for TCP may be taken for UDP.
	var transport *memberlist.NetTransport
	var err error
	for attempt := 0; transport == nil && (attempt == 0 || bind.Port() == 0 && attempt < 10); attempt++ {
		transport, err = memberlist.NewNetTransport(nc)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for gossip on %s: %w", bind, err)
	}
	conf.BindPort = transport.GetAutoBindPort()
	conf.AdvertisePort = conf.BindPort
	if advertise.IsValid() {
		conf.AdvertiseAddr = advertise.Addr().Unmap().WithZone("").String()
		if advertise.Port() != 0 {
			conf.AdvertisePort = int(advertise.Port())
		}
	}
	return transport, nil
}
