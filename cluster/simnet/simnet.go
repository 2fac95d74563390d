// SPDX-License-Identifier: Apache-2.0

// Package simnet is a network in memory for tests of gossip: it delays, loses
// and cuts off traffic in one direction, and freezes hosts. A [Transport] is a
// memberlist transport on it.
//
// All waiting is on timers and channels, so it runs in a testing/synctest
// bubble, in virtual time. The seed decides what is lost; it does not make the
// order of goroutines repeatable.
package simnet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Link is how traffic gets from one host to another. The zero value delivers
// everything at once.
type Link struct {
	Delay, Jitter time.Duration // each packet takes Delay plus up to Jitter
	LossPercent   int           // of packets; streams repeat what was lost, and are late
}

// retransmit is how late a stream is when a segment was lost.
const retransmit = 200 * time.Millisecond

// Network connects transports. It is safe for concurrent use.
type Network struct {
	mu struct {
		sync.Mutex
		random *rand.Rand
		hosts  map[netip.AddrPort]*Transport
		links  map[path]Link
		usual  Link
		cut    map[path]bool
		frozen map[netip.AddrPort]time.Time // until then
	}
}

type path struct{ from, to netip.AddrPort }

// New makes a network on which every link is as given.
func New(seed uint64, usual Link) *Network {
	n := &Network{}
	n.mu.random = rand.New(rand.NewPCG(seed, seed))
	n.mu.hosts = map[netip.AddrPort]*Transport{}
	n.mu.links = map[path]Link{}
	n.mu.usual = usual
	n.mu.cut = map[path]bool{}
	n.mu.frozen = map[netip.AddrPort]time.Time{}
	return n
}

// SetLink changes the link in one direction.
func (n *Network) SetLink(from, to netip.AddrPort, link Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.links[path{from, to}] = link
}

// Cut loses all that is sent in one direction from now on, without an error.
// Streams that lose something stay silent for good, even after a Heal.
func (n *Network) Cut(from, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.cut[path{from, to}] = true
}

// Split cuts the hosts of one side off from those of the other, both ways.
func (n *Network) Split(side, other []netip.AddrPort) {
	for _, a := range side {
		for _, b := range other {
			n.Cut(a, b)
			n.Cut(b, a)
		}
	}
}

// Heal undoes all cuts.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.mu.cut)
}

// Freeze stops a host for a time, as SIGSTOP does: what is sent to it waits, and
// so does what it sends.
func (n *Network) Freeze(host netip.AddrPort, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.frozen[host] = time.Now().Add(d)
}

// plan says how long a packet that is sent now takes, and whether it arrives at
// all. A frozen sender sends later.
func (n *Network) plan(from, to netip.AddrPort) (delay time.Duration, lost, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := path{from, to}
	link, ok := n.mu.links[p]
	if !ok {
		link = n.mu.usual
	}
	delay = link.Delay + n.thawLocked(from)
	if link.Jitter > 0 {
		delay += time.Duration(n.mu.random.Int64N(int64(link.Jitter)))
	}
	return delay, n.mu.random.IntN(100) < link.LossPercent, n.mu.cut[p]
}

// thaw is how long a host is frozen from now on.
func (n *Network) thaw(host netip.AddrPort) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.thawLocked(host)
}

func (n *Network) thawLocked(host netip.AddrPort) time.Duration {
	until, ok := n.mu.frozen[host]
	if !ok {
		return 0
	}
	return max(0, time.Until(until))
}

func (n *Network) host(addr netip.AddrPort) *Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.hosts[addr]
}

// after calls f when a host that is not frozen gets to it.
func (n *Network) after(d time.Duration, host netip.AddrPort, f func()) {
	time.AfterFunc(d, func() {
		if frozen := n.thaw(host); frozen > 0 {
			n.after(frozen, host, f)
			return
		}
		f()
	})
}

// errTimeout is what dialing returns when nobody answers.
type errTimeout struct{ to netip.AddrPort }

func (e errTimeout) Error() string   { return fmt.Sprintf("dial %s: i/o timeout", e.to) }
func (e errTimeout) Timeout() bool   { return true }
func (e errTimeout) Temporary() bool { return true }

var _ net.Error = errTimeout{}
