// SPDX-License-Identifier: Apache-2.0

// Package resp serves the RateLimiter service by the Redis protocol, RESP2 and RESP3: the
// commands BR.CHECK, BR.RESERVE, BR.SETTLE, BR.CANCEL and BR.LIMITS, CL.THROTTLE as redis-cell
// has it, and what clients of Redis send when they connect.
//
// It is as strict as the HTTP API. A denial is an answer. An error names the field and the
// problem, begins with a code, and never ends the connection, unless what was sent is not the
// protocol. The commands of a pipeline are decided as one batch, up to [server.MaxItems], and
// answered in their order.
//
// A connection takes up to 128 KiB for what is read, and as much for its answers.
package resp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/rpc/server"
)

// Options configure [New]. Decider is required.
type Options struct {
	Decider server.Decider
	// Now is the wall clock of the service, for the time until a reset. Default: time.Now.
	Now func() time.Time
	// Version of this build, for HELLO and INFO.
	Version string
	// Access decides who may call. Nil: everybody.
	Access *auth.Authority
	// Admission refuses new calls. Nil: all are admitted.
	Admission *server.Admission
	// Rejections counts what is rejected before it is a call. Nil: nothing is counted.
	Rejections *server.Rejections
	// Logger gets panics and internal errors. Nil: no log.
	Logger *slog.Logger
}

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("resp: server closed")

// Server answers connections. It is safe for concurrent use.
type Server struct {
	options  Options
	started  time.Time
	commands []command
	lastID   atomic.Int64 // of a connection

	draining atomic.Bool
	running  sync.WaitGroup // connections
	mu       struct {
		sync.Mutex
		listener net.Listener // nil before Serve
		conns    map[*conn]struct{}
	}
}

// New returns a server, which does not serve yet.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{options: o, started: time.Now(), commands: allCommands()}
	s.mu.conns = map[*conn]struct{}{}
	return s
}

// Pauses after an error of Accept, which may be a lack of descriptors.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// Serve answers the connections of a listener until Shutdown, and returns ErrServerClosed then.
// It may be called once.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.mu.listener = l
	s.mu.Unlock()
	if s.draining.Load() {
		_ = l.Close() // Shutdown may not have seen it
		return ErrServerClosed
	}
	pause := minAcceptPause
	for {
		c, err := l.Accept()
		switch {
		case s.draining.Load():
			if err == nil {
				_ = c.Close()
			}
			return ErrServerClosed
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			s.options.Logger.Warn("connection not accepted", "listener", "resp", "error", err)
			time.Sleep(pause)
			pause = min(2*pause, maxAcceptPause)
			continue
		}
		pause = minAcceptPause
		s.start(c)
	}
}

func (s *Server) start(nc net.Conn) {
	c := newConn(s, nc, s.lastID.Add(1))
	s.mu.Lock()
	s.mu.conns[c] = struct{}{}
	s.mu.Unlock()
	s.running.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.mu.conns, c)
			s.mu.Unlock()
		}()
		c.serve()
	})
}

// Shutdown accepts no more connections, and ends each one when what was read of it is
// answered. When ctx is done it closes the others, and returns the error of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	if s.mu.listener != nil {
		_ = s.mu.listener.Close() // its owner closes it, too
	}
	for c := range s.mu.conns {
		c.wake()
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.running.Wait()
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.mu.conns {
		c.cancel()
		_ = c.nc.Close()
	}
	s.mu.Unlock()
	<-ended
	return ctx.Err()
}

// connections returns how many connections are open.
func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.conns)
}
