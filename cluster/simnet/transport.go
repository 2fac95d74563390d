// SPDX-License-Identifier: Apache-2.0

package simnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Transport is a host on the network.
type Transport struct {
	network *Network
	addr    netip.AddrPort
	packets chan *memberlist.Packet // packets are dropped if it is full; never closed
	streams chan net.Conn           // connections are closed if it is full; never closed
	closed  chan struct{}           // closed by Shutdown
	once    sync.Once
}

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// Transport starts a host. It replaces an earlier host at the same address.
func (n *Network) Transport(addr netip.AddrPort) *Transport {
	t := &Transport{
		network: n, addr: addr,
		packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn, 128), closed: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.hosts[addr] = t
	delete(n.mu.frozen, addr)
	return t
}

// FinalAdvertiseAddr implements [memberlist.Transport].
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.addr.Addr().AsSlice(), int(t.addr.Port()), nil
}

// WriteTo implements [memberlist.Transport].
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return now, err
	}
	delay, lost, cut := t.network.plan(t.addr, to)
	if lost || cut || t.isClosed() {
		return now, nil
	}
	packet := &memberlist.Packet{Buf: bytes.Clone(b), From: net.UDPAddrFromAddrPort(t.addr)}
	t.network.after(delay, to, func() {
		if dest := t.network.host(to); dest != nil {
			packet.Timestamp = time.Now()
			select {
			case dest.packets <- packet:
			default:
			}
		}
	})
	return now, nil
}

// WriteToAddress implements [memberlist.NodeAwareTransport].
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh implements [memberlist.Transport].
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements [memberlist.Transport].
func (t *Transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout implements [memberlist.Transport]. It takes one round trip.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	request, requestLost, requestCut := t.network.plan(t.addr, to)
	reply, replyLost, replyCut := t.network.plan(to, t.addr)
	reply = max(0, reply-t.network.frozenFor(to)) // the kernel of a frozen host answers
	duration := request + reply
	if requestLost || replyLost {
		duration += time.Second
	}
	if requestCut || replyCut || duration > timeout {
		time.Sleep(timeout)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errTimeout{to}}
	}
	time.Sleep(duration)
	dest := t.network.host(to)
	if dest == nil || t.isClosed() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("dial %s: %w", to, errRefused)}
	}
	near, far := pipe(t.network, t.addr, to)
	t.network.after(0, to, func() {
		select {
		case dest.streams <- far:
		default:
			_ = far.Close()
		}
	})
	return near, nil
}

var errRefused = errors.New("connection refused")

// DialAddressTimeout implements [memberlist.NodeAwareTransport].
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// Shutdown implements [memberlist.Transport]. A test may call it to disconnect a
// host whose process keeps running.
func (t *Transport) Shutdown() error {
	t.once.Do(func() {
		close(t.closed)
		t.network.mu.Lock()
		defer t.network.mu.Unlock()
		if t.network.mu.hosts[t.addr] == t {
			delete(t.network.mu.hosts, t.addr)
		}
	})
	return nil
}

func (t *Transport) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}
