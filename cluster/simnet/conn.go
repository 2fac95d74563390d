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

	"github.com/bucketring/bucketring/internal/notify"
)

// conn is one end of a connection. Writes never block, as if buffers were unlimited.
type conn struct {
	in, out *stream
}

// stream is one direction of a connection.
type stream struct {
	network  *Network
	from, to netip.AddrPort
	changed  notify.Signal // wakes the reader

	mu struct {
		sync.Mutex
		segments []segment // in order of arrival
		ended    bool      // the writer sends no more segments
		closed   bool      // the reader has closed its end
		deadline time.Time // of reads
	}
}

// segment is data and the time of its arrival. Without data it ends the stream.
type segment struct {
	at   time.Time
	data []byte
}

// pipe returns both ends of a connection.
func pipe(n *Network, a, b netip.AddrPort) (near, far net.Conn) {
	ab := &stream{network: n, from: a, to: b, changed: notify.New()}
	ba := &stream{network: n, from: b, to: a, changed: notify.New()}
	return &conn{in: ba, out: ab}, &conn{in: ab, out: ba}
}

// send enqueues data, or the end of the stream if data is nil.
func (s *stream) send(data []byte) {
	delay, lost, cut := s.network.plan(s.from, s.to)
	if lost {
		delay += retransmitDelay
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.ended {
		return
	}
	if cut {
		s.mu.ended = true // the stream stays silent, and the reader sees no end
		return
	}
	s.mu.ended = data == nil
	at := time.Now().Add(delay)
	if n := len(s.mu.segments); n > 0 && at.Before(s.mu.segments[n-1].at) {
		at = s.mu.segments[n-1].at
	}
	s.mu.segments = append(s.mu.segments, segment{at, data})
	s.changed.Set()
}

// receive reads a segment that has arrived. If there is none, it returns how long
// to wait; a negative time means until the next change.
func (s *stream) receive(b []byte) (n int, wait time.Duration, err error) {
	frozen := s.network.frozenFor(s.to)
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = -1
	atMost := func(d time.Duration) {
		if wait < 0 || d < wait {
			wait = d
		}
	}
	if s.mu.closed {
		return 0, 0, net.ErrClosed
	}
	if len(s.mu.segments) > 0 {
		head := &s.mu.segments[0]
		if d := max(frozen, time.Until(head.at)); d > 0 {
			atMost(d)
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
		atMost(d)
	}
	return 0, wait, nil
}

// wait returns at the next change, or after d if d is not negative.
func (s *stream) wait(d time.Duration) {
	if d < 0 {
		<-s.changed.C()
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.changed.C():
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
		c.in.wait(wait)
	}
	return 0, nil
}

// Write implements [net.Conn].
func (c *conn) Write(b []byte) (int, error) {
	c.in.mu.Lock()
	closed := c.in.mu.closed
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
	c.in.mu.closed = true
	c.in.mu.Unlock()
	c.in.changed.Set()
	return nil
}

// SetReadDeadline implements [net.Conn].
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	c.in.mu.deadline = t
	c.in.mu.Unlock()
	c.in.changed.Set()
	return nil
}

func (c *conn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
func (c *conn) LocalAddr() net.Addr              { return net.TCPAddrFromAddrPort(c.out.from) }
func (c *conn) RemoteAddr() net.Addr             { return net.TCPAddrFromAddrPort(c.out.to) }
