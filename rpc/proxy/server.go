// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/listenlimit"
)

// settleTimeout bounds how long cancelled calls may take to settle. It is longer
// than the timeouts of the client.
const settleTimeout = 10 * time.Second

// A Server serves a [Proxy]. Its Shutdown returns when every call is settled.
type Server struct {
	proxy  *Proxy
	http   *http.Server
	cancel context.CancelFunc // of all requests

	mu struct {
		sync.Mutex
		inFlight int
		idle     chan struct{} // closed when inFlight becomes 0; nil: no waiter
	}
}

// maxStreams bounds the requests on one HTTP/2 connection, so that it is worth few of
// HTTP/1.
const maxStreams = 100

// NewServer returns a server for p. It speaks HTTP/1.1, and HTTP/2 without TLS to callers
// that know that it does. Do not use p with another server.
func NewServer(p *Proxy) *Server {
	s := &Server{proxy: p}
	base, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true) // with TLS
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		Handler:           http.HandlerFunc(s.serve),
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnState:         listenlimit.HTTPState,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve serves requests on l. It returns nil after Shutdown.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve proxy: %w", err)
	}
	return nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.add(1)
	defer s.add(-1)
	s.proxy.ServeHTTP(w, r)
}

func (s *Server) add(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.inFlight += n
	if s.mu.inFlight == 0 && s.mu.idle != nil {
		close(s.mu.idle)
		s.mu.idle = nil
	}
}

// InFlight returns the number of requests in progress.
func (s *Server) InFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.inFlight
}

// Shutdown stops accepting requests and waits for those in progress. When ctx is
// done, it cancels the rest and waits until they are settled with the usage so far.
// It returns an error if that takes more than 10 seconds. Flush and close the
// client of the middleware only after Shutdown has returned.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.proxy.Close()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, ctx.Err()) && err != nil {
		s.proxy.log.Warn("shutdown timeout: cancelling the requests in progress", "count", s.InFlight())
		err = nil
	}
	s.cancel()
	s.proxy.Abort()
	if !s.waitIdle(settleTimeout / 2) {
		err = errors.Join(err, s.http.Close()) // unblocks writes to callers that do not read
		if !s.waitIdle(settleTimeout / 2) {
			err = errors.Join(err, fmt.Errorf("%d calls did not end within %v; they are charged when their leases expire", s.InFlight(), settleTimeout))
		}
	}
	return errors.Join(err, s.http.Close())
}

// waitIdle waits until no request is in progress. It returns false after the
// timeout.
func (s *Server) waitIdle(timeout time.Duration) bool {
	s.mu.Lock()
	if s.mu.inFlight == 0 {
		s.mu.Unlock()
		return true
	}
	if s.mu.idle == nil {
		s.mu.idle = make(chan struct{})
	}
	idle := s.mu.idle
	s.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-idle:
		return true
	case <-timer.C:
		return false
	}
}
