// SPDX-License-Identifier: Apache-2.0

package simnet

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// conn is one end of a stream. Writing never blocks: kernels have buffers.
type conn struct {
	in, out *stream
}

// stream is one direction of a connection.
type stream struct {
	network  *Network
	from, to netip.AddrPort
	wake     chan struct{} // something changed; cap 1: there is one reader

	mu struct {
		sync.Mutex
		segments []segment // in order of arrival
		ended    bool      // by the writer: nothing comes after the segments
		dropped  bool      // by the reader
		deadline time.Time // of reads
	}
}

// segment arrives at a time; without data it is the end of the stream.
type segment struct {
	at   time.Time
	data []byte
}

func pipe(n *Network, a, b netip.AddrPort) (near, far net.Conn) {
	ab := &stream{network: n, from: a, to: b, wake: make(chan struct{}, 1)}
	ba := &stream{network: n, from: b, to: a, wake: make(chan struct{}, 1)}
	return &conn{in: ba, out: ab}, &conn{in: ab, out: ba}
}

func (s *stream) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// send queues data, or the end if there is none.
func (s *stream) send(data []byte) {
	delay, lost, cut := s.network.plan(s.from, s.to)
	if lost {
		delay += retransmit
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.ended {
		return
	}
	if cut {
		s.mu.ended = true // silence from here on: an end that never arrives
		return
	}
	s.mu.ended = data == nil
	at := time.Now().Add(delay)
	if n := len(s.mu.segments); n > 0 && at.Before(s.mu.segments[n-1].at) {
		at = s.mu.segments[n-1].at
	}
	s.mu.segments = append(s.mu.segments, segment{at, data})
	s.notify()
}

// receive reads what has arrived, or says how long to wait: for ever if
// negative.
func (s *stream) receive(b []byte) (n int, wait time.Duration, err error) {
	frozen := s.network.thaw(s.to)
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = -1
	sooner := func(d time.Duration) {
		if wait < 0 || d < wait {
			wait = d
		}
	}
	if s.mu.dropped {
		return 0, 0, net.ErrClosed
	}
	if len(s.mu.segments) > 0 {
		head := &s.mu.segments[0]
		if d := max(frozen, time.Until(head.at)); d > 0 {
			sooner(d)
		} else if head.data == nil {
			return 0, 0, io.EOF
		} else {
			n = copy(b, head.data)
			if head.data = head.data[n:]; len(head.data) == 0 {
				s.mu.segments = s.mu.segments[1:]
			}
			return n, 0, nil
		}
	}
	if !s.mu.deadline.IsZero() {
		d := time.Until(s.mu.deadline)
		if d <= 0 {
			return 0, 0, os.ErrDeadlineExceeded
		}
		sooner(d)
	}
	return 0, wait, nil
}

// await returns when something changed, or after a time if it is not negative.
func (s *stream) await(d time.Duration) {
	if d < 0 {
		<-s.wake
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.wake:
	case <-timer.C:
	}
}

// Read implements [net.Conn].
func (c *conn) Read(b []byte) (int, error) {
	for len(b) > 0 {
		n, wait, err := c.in.receive(b)
		if n > 0 || err != nil {
			return n, err
		}
		c.in.await(wait)
	}
	return 0, nil
}

// Write implements [net.Conn].
func (c *conn) Write(b []byte) (int, error) {
	c.in.mu.Lock()
	closed := c.in.mu.dropped
	c.in.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	if len(b) > 0 {
		c.out.send(bytes.Clone(b))
	}
	return len(b), nil
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.out.send(nil)
	c.in.mu.Lock()
	c.in.mu.dropped = true
	c.in.mu.Unlock()
	c.in.notify()
	return nil
}

// SetReadDeadline implements [net.Conn].
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	c.in.mu.deadline = t
	c.in.mu.Unlock()
	c.in.notify()
	return nil
}

func (c *conn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
func (c *conn) LocalAddr() net.Addr              { return net.TCPAddrFromAddrPort(c.out.from) }
func (c *conn) RemoteAddr() net.Addr             { return net.TCPAddrFromAddrPort(c.out.to) }
