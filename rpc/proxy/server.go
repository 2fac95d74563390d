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
)

// settleTimeout bounds how long calls that were broken off may take to report
// what they used. A client gives up long before.
const settleTimeout = 10 * time.Second

// A Server serves a [Proxy], and ends so that every call is settled.
type Server struct {
	proxy *Proxy
	http  *http.Server
	stop  context.CancelFunc // of all requests

	mu struct {
		sync.Mutex
		running int
		idle    chan struct{} // closed when running becomes 0; nil: nobody waits
	}
}

// NewServer returns a server for p, which no other one may serve.
func NewServer(p *Proxy) *Server {
	s := &Server{proxy: p}
	base, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers at l until Shutdown, and then returns nil.
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
	s.mu.running += n
	if s.mu.running == 0 && s.mu.idle != nil {
		close(s.mu.idle)
		s.mu.idle = nil
	}
}

// Running returns how many requests are under way.
func (s *Server) Running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.running
}

// Shutdown takes no new calls and lets those under way finish until ctx is
// done. The rest is then broken off and settled by what came until then, which is
// waited for. The client that the calls settle with must outlive it; flush it
// afterwards.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.proxy.Close()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, ctx.Err()) && err != nil {
		s.proxy.log.Warn("calls were broken off", "count", s.Running())
		err = nil
	}
	s.stop()
	s.proxy.Abort()
	if !s.settled(settleTimeout / 2) {
		err = errors.Join(err, s.http.Close()) // callers that take nothing
		if !s.settled(settleTimeout / 2) {
			err = errors.Join(err, fmt.Errorf("%d calls did not end within %v: they are charged when their leases run out", s.Running(), settleTimeout))
		}
	}
	return errors.Join(err, s.http.Close())
}

// settled waits until no request is under way.
func (s *Server) settled(timeout time.Duration) bool {
	s.mu.Lock()
	if s.mu.running == 0 {
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
