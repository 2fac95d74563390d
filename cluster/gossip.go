// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/bucketring/bucketring/internal/listenlimit"
)

// reconnectTimeout is how long a member that crashed is contacted again.
const reconnectTimeout = 24 * time.Hour

// Settings of gossip. A crash is detected within about 3 s: up to one probe
// interval until the node is probed, one until it is suspected, and suspicionMult
// intervals (more with 11 or more members) until it is declared dead.
const (
	probeInterval = 500 * time.Millisecond
	probeTimeout  = 200 * time.Millisecond
	suspicionMult = 4

	// A node that considers itself unhealthy gives others more time: up to
	// suspicionMaxMult times as long for a suspect, and up to maxHealthScore more
	// intervals for each probe. A node that is cut off considers itself unhealthy,
	// too. With memberlist's defaults of 6 and 7, one of nine members takes 27 s to
	// see that it has lost the majority; with these values it takes 9 s. See
	// TestIsolatedNodeNotices.
	suspicionMaxMult = 2
	maxHealthScore   = 1

	// An update is sent retransmitMult x ceil(log10(n+1)) times, including replies
	// to the node that it came from. With memberlist's default of 4, one update in
	// 200 misses one of five members even without packet loss, and that member is
	// stale until the next exchange of state, 15 s or more later. See
	// TestUpdatesReachEverybody.
	retransmitMult = 8

	pushPullInterval = 15 * time.Second
	streamTimeout    = 2 * time.Second // to dial, and again to exchange state
	reclaimTime      = time.Second
	packetSize       = 1200 // bytes; fits into overlay networks and VPNs
	handoffQueue     = 4096
)

// Settings of views. See [timing].
const (
	viewDebounce = 300 * time.Millisecond
	viewMaxDelay = 2 * time.Second
)

// gossipConfig returns the configuration of memberlist without a transport.
func (c *Cluster) gossipConfig() *memberlist.Config {
	conf := memberlist.DefaultLANConfig()
	conf.Name = gossipName(c.options.Name, c.options.Boot.ID)
	conf.Label = c.options.Label
	conf.Logger = log.New(c.gossipLog, "", 0)

	conf.ProbeInterval, conf.ProbeTimeout, conf.SuspicionMult = probeInterval, probeTimeout, suspicionMult
	conf.PushPullInterval, conf.TCPTimeout = pushPullInterval, streamTimeout
	conf.RetransmitMult = retransmitMult
	conf.SuspicionMaxTimeoutMult, conf.AwarenessMaxMultiplier = suspicionMaxMult, maxHealthScore+1
	conf.DeadNodeReclaimTime = reclaimTime
	conf.EnableCompression = false
	conf.UDPBufferSize, conf.HandoffQueueDepth = packetSize, handoffQueue

	conf.Keyring = c.keyring
	conf.GossipVerifyIncoming = !c.options.AcceptPlaintext
	conf.GossipVerifyOutgoing = !c.options.SendPlaintext

	conf.Delegate, conf.Events, conf.Alive, conf.Merge = c.observer, c.observer, c.observer, c.observer
	return conf
}

// startGossip opens the sockets, unless a transport is given, and starts to
// answer. It returns the address at which others reach this node.
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
		_ = conf.Transport.Shutdown() // memberlist does not close it on failure
		return nil, netip.AddrPort{}, fmt.Errorf("start gossip: %w", err)
	}
	// LocalNode returns shared memory, which only UpdateNode changes: not called yet.
	local := list.LocalNode()
	ip, _ := netip.AddrFromSlice(local.Addr)
	return list, netip.AddrPortFrom(ip.Unmap(), local.Port), nil
}

// listen opens the sockets and sets their address in conf.
func (c *Cluster) listen(conf *memberlist.Config) (memberlist.Transport, error) {
	bind, advertise := c.options.Bind, c.options.Advertise
	conf.BindAddr, conf.BindPort = bind.Addr().Unmap().String(), int(bind.Port())
	nc := &memberlist.NetTransportConfig{BindAddrs: []string{conf.BindAddr}, BindPort: conf.BindPort, Logger: conf.Logger}
	// A port that is free for TCP may be taken for UDP, so try several.
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
	return newLimitedTransport(transport, listenlimit.Options{Member: c.HasMember, Metrics: c.options.Connections, Logger: c.log}, c.metrics.tooLarge), nil
}
