// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
)

// StreamServerInterceptor returns the interceptor for streaming calls. A
// server-streaming call is reserved when its request has arrived, any other one
// before the handler runs. The call is settled when the handler returns, with the
// usage of the last [Call.SetUsage]. Each SetUsage is also reported as progress.
func (g *GRPC) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, inner grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		s := &stream{ServerStream: inner, grpc: g, method: info.FullMethod}
		returned := false
		defer func() { // does not recover: a panic goes on afterwards
			if c := s.call(); c != nil {
				c.finish(g.ending(inner.Context(), err, returned, s.sent.Load()))
			}
		}()
		if info.IsClientStream {
			if err := s.begin(nil); err != nil {
				return err
			}
		}
		err = next(srv, s)
		returned = true
		if rejected := s.err(); rejected != nil {
			return rejected // also if the handler has replaced it
		}
		return err
	}
}

// stream reserves its call before its first message is received or sent.
type stream struct {
	grpc.ServerStream
	grpc   *GRPC
	method string
	sent   atomic.Bool

	mu struct {
		sync.Mutex
		begun bool
		req   any
		call  *Call // nil: not begun, not metered, or must not run
		err   error // why the call must not run
	}
}

func (s *stream) call() *Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.call
}

func (s *stream) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.err
}

// begin reserves the call once, and returns the error if it must not run.
func (s *stream) begin(req any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.begun {
		s.mu.begun, s.mu.req = true, req
		s.mu.call, s.mu.err = s.grpc.begin(s.ServerStream.Context(), s.method, req, s.SetTrailer)
	}
	return s.mu.err
}

// Context implements grpc.ServerStream.
func (s *stream) Context() context.Context {
	ctx := s.ServerStream.Context()
	if c := s.call(); c != nil {
		return context.WithValue(ctx, contextKey{}, c)
	}
	return ctx
}

// RecvMsg implements grpc.ServerStream.
func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.begin(m)
}

// SendMsg implements grpc.ServerStream.
func (s *stream) SendMsg(m any) error {
	if err := s.begin(nil); err != nil { // the handler may send before it receives
		return err
	}
	s.sent.Store(true)
	if c := s.call(); c != nil && s.grpc.options.Usage != nil {
		if u, ok := s.grpc.options.Usage(s.method, s.mu.req, m); ok {
			c.SetUsage(u)
		}
	}
	return s.ServerStream.SendMsg(m)
}
