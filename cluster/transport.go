// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/share"
)

// Bounds of TCP connections. memberlist reads up to 20 MiB of each before it decrypts
// anything, of any number of them. Here, whoever has no key can make it keep
// maxStreams x maxStreamBytes = 32 MiB, about three times that with its copies, and only
// for streamTimeout.
const (
	maxStreams           = 64 // inbound at the same time
	maxStreamsPerAddress = 8  // of an address that is no member's
	streamsForMembers    = 16 // of maxStreams
	maxStreamBytes       = 512 << 10
)

var errStreamTooLarge = errors.New("more than 512 KiB in one connection of gossip")

// limitedTransport is memberlist's transport with bounds for connections.
type limitedTransport struct {
	*memberlist.NetTransport
	listener *listenlimit.Listener
	streams  chan net.Conn
	tooLarge prometheus.Counter

	stop    chan struct{} // closed by Shutdown
	stopped sync.Once
	done    sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*limitedTransport)(nil)

func newLimitedTransport(inner *memberlist.NetTransport, o listenlimit.Options, tooLarge prometheus.Counter) *limitedTransport {
	t := &limitedTransport{NetTransport: inner, streams: make(chan net.Conn), tooLarge: tooLarge, stop: make(chan struct{})}
	o.Name, o.Max, o.MaxPerAddress, o.Reserved = "gossip", maxStreams, maxStreamsPerAddress, streamsForMembers
	t.listener = listenlimit.New(streamListener{t}, o)
	t.done.Go(t.admit)
	return t
}

// streamListener accepts the connections of the inner transport.
type streamListener struct{ *limitedTransport }

// Accept implements net.Listener.
func (l streamListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.NetTransport.StreamCh():
		return c, nil
	case <-l.stop:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l streamListener) Close() error { return nil }

// Addr implements net.Listener.
func (l streamListener) Addr() net.Addr { return &net.TCPAddr{Port: l.GetAutoBindPort()} }

// admit passes on the connections that the listener admits.
func (t *limitedTransport) admit() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return
		}
		select {
		case t.streams <- t.limit(c):
		case <-t.stop:
			_ = c.Close()
			return
		}
	}
}

// StreamCh implements [memberlist.Transport].
func (t *limitedTransport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout implements [memberlist.Transport].
func (t *limitedTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements [memberlist.NodeAwareTransport].
func (t *limitedTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	c, err := t.NetTransport.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	return t.limit(c), nil
}

// Shutdown implements [memberlist.Transport].
func (t *limitedTransport) Shutdown() error {
	t.stopped.Do(func() { close(t.stop) })
	t.done.Wait()
	// The inner transport waits until its last connection is received.
	closed := make(chan error, 1)
	go func() { closed <- t.NetTransport.Shutdown() }()
	for {
		select {
		case err := <-closed:
			return err
		case c := <-t.NetTransport.StreamCh():
			_ = c.Close()
		case <-t.NetTransport.PacketCh():
		}
	}
}

// limit returns c with a bound for what is read.
func (t *limitedTransport) limit(c net.Conn) net.Conn {
	return &limitedStream{Conn: c, left: maxStreamBytes, tooLarge: t.tooLarge}
}

// limitedStream fails when more than maxStreamBytes are read.
type limitedStream struct {
	net.Conn
	left     int // may still be read; used by one goroutine
	tooLarge prometheus.Counter
}

// Read implements net.Conn.
func (s *limitedStream) Read(b []byte) (int, error) {
	if s.left == 0 {
		s.tooLarge.Inc()
		return 0, errStreamTooLarge
	}
	n, err := s.Conn.Read(b[:min(len(b), s.left)])
	s.left -= n
	return n, err
}

// HasMember reports whether another member, in the current view, has an address, which
// package share has normalized. It takes no lock.
func (c *Cluster) HasMember(a netip.Addr) bool {
	v := c.view.Load()
	for _, m := range v.Members {
		if m.Name != c.options.Name && share.Of(m.Gossip.Addr()) == a {
			return true
		}
	}
	return false
}
