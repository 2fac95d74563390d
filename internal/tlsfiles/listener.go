// SPDX-License-Identifier: Apache-2.0

package tlsfiles

import (
	"cmp"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// refusalTimeout bounds how long a connection without TLS is told that it needs TLS.
	refusalTimeout = time.Second
	httpRefusal    = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nthis address needs TLS: use https://\n"
)

// Listener returns a listener for a server of HTTP, or of another protocol in which callers
// speak first. Its connections have made their
// handshakes: they are a [*tls.Conn] or, where TLS is optional, plaintext. A connection
// that makes none in 10 seconds is closed, and delays no other.
func (s *Store) Listener(inner net.Listener, o ServerOptions) net.Listener {
	l := &listener{Listener: inner, acceptor: s.newAcceptor(o), ready: make(chan net.Conn), failed: make(chan error), done: make(chan struct{})}
	l.mu.open = map[net.Conn]struct{}{}
	return l
}

type listener struct {
	net.Listener
	acceptor *acceptor
	started  sync.Once
	ready    chan net.Conn
	failed   chan error
	done     chan struct{} // closed by Close
	running  sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		open   map[net.Conn]struct{} // that have not made their handshakes
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.started.Do(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.mu.closed {
			l.running.Go(l.run)
		}
	})
	select {
	case c := <-l.ready:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It closes the connections that have not made their
// handshakes.
func (l *listener) Close() error {
	l.mu.Lock()
	if l.mu.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.mu.closed = true
	close(l.done)
	for c := range l.mu.open {
		_ = c.Close()
	}
	l.mu.Unlock()
	err := l.Listener.Close()
	l.running.Wait()
	return err
}

func (l *listener) run() {
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			l.begin(c)
			continue
		}
		select {
		case l.failed <- err:
		case <-l.done:
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// begin makes the handshake of a connection.
func (l *listener) begin(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		_ = c.Close()
		return
	}
	l.mu.open[c] = struct{}{}
	l.running.Go(func() {
		conn := l.handshake(c)
		l.mu.Lock()
		delete(l.mu.open, c)
		l.mu.Unlock()
		if conn == nil {
			return
		}
		select {
		case l.ready <- conn:
		case <-l.done:
			_ = conn.Close()
		}
	})
}

// handshake returns a connection that is ready for requests, or nil if it was refused.
func (l *listener) handshake(c net.Conn) net.Conn {
	secure, conn, err := l.acceptor.begin(c)
	if err == nil && secure {
		server := tls.Server(conn, l.acceptor.config)
		conn, err = server, server.Handshake() //nolint:noctx // the connection has a deadline
	}
	l.acceptor.ended(c, secure, err)
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		if errors.Is(err, errPlaintext) {
			refuse(conn, cmp.Or(l.acceptor.options.Refusal, httpRefusal))
		}
		_ = c.Close()
		return nil
	}
	return conn
}

// refuse tells a caller without TLS what to do.
func refuse(c net.Conn, refusal string) {
	_ = c.SetDeadline(time.Now().Add(refusalTimeout))
	_, _ = c.Read(make([]byte, 1)) // the first byte again
	_, _ = c.Read(make([]byte, 4<<10))
	if _, err := io.WriteString(c, refusal); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(c, 4<<10)) // a close with unread data would be a reset
}
