// SPDX-License-Identifier: Apache-2.0

// Package simnet is an in-memory network for tests of gossip. It delays, loses and
// cuts traffic, separately in each direction, and freezes hosts. A [Transport] is a
// memberlist transport on it.
//
// It only waits for timers and channels, so it runs in virtual time in a
// testing/synctest bubble. The seed determines the loss of packets, but not the
// order of goroutines.
package simnet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Link is the quality of a link from one host to another. The zero value delivers
// everything at once.
type Link struct {
	Delay, Jitter time.Duration // each packet takes Delay plus up to Jitter
	LossPercent   int           // of packets; streams retransmit lost segments
}

// retransmitDelay is the delay of a stream when a segment was lost.
const retransmitDelay = 200 * time.Millisecond

// Network connects transports. It is safe for concurrent use.
type Network struct {
	mu struct {
		sync.Mutex
		random *rand.Rand
		hosts  map[netip.AddrPort]*Transport
		links  map[path]Link
		normal Link // of the hosts that are not in links
		cut    map[path]bool
		frozen map[netip.AddrPort]time.Time // until this time
	}
}

type path struct{ from, to netip.AddrPort }

// New returns a network with the same quality for every link.
func New(seed uint64, normal Link) *Network {
	n := &Network{}
	n.mu.random = rand.New(rand.NewPCG(seed, seed))
	n.mu.hosts = map[netip.AddrPort]*Transport{}
	n.mu.links = map[path]Link{}
	n.mu.normal = normal
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

// Cut drops everything that is sent in one direction from now on, without an
// error. Streams that lose a segment stay silent, even after Heal.
func (n *Network) Cut(from, to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.cut[path{from, to}] = true
}

// Split cuts all links between the hosts of two sides, in both directions.
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

// Freeze stops a host for a time, like SIGSTOP: traffic from and to it is delayed.
func (n *Network) Freeze(host netip.AddrPort, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.frozen[host] = time.Now().Add(d)
}

// plan returns the delay of a packet that is sent now, and whether it is lost or
// the link is cut. The delay includes the time that the sender is frozen.
func (n *Network) plan(from, to netip.AddrPort) (delay time.Duration, lost, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := path{from, to}
	link, ok := n.mu.links[p]
	if !ok {
		link = n.mu.normal
	}
	delay = link.Delay + n.frozenForLocked(from)
	if link.Jitter > 0 {
		delay += time.Duration(n.mu.random.Int64N(int64(link.Jitter)))
	}
	return delay, n.mu.random.IntN(100) < link.LossPercent, n.mu.cut[p]
}

// frozenFor returns how much longer a host is frozen.
func (n *Network) frozenFor(host netip.AddrPort) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.frozenForLocked(host)
}

func (n *Network) frozenForLocked(host netip.AddrPort) time.Duration {
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

// after calls f after d, or later when the host is not frozen any more.
func (n *Network) after(d time.Duration, host netip.AddrPort, f func()) {
	// In a bubble of synctest, Go 1.26 runs a timer that is due at once on the system
	// stack, where the race detector now and then crashes.
	time.AfterFunc(max(d, time.Nanosecond), func() {
		if frozen := n.frozenFor(host); frozen > 0 {
			n.after(frozen, host, f)
			return
		}
		f()
	})
}

// errTimeout is the error of a dial without an answer.
type errTimeout struct{ to netip.AddrPort }

func (e errTimeout) Error() string   { return fmt.Sprintf("dial %s: i/o timeout", e.to) }
func (e errTimeout) Timeout() bool   { return true }
func (e errTimeout) Temporary() bool { return true }

var _ net.Error = errTimeout{}
