// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
)

// Stream returns the interceptor of streaming calls. One whose answers alone
// are streamed is reserved when its request is there; where the caller streams,
// it is reserved before the handler runs. It is settled when the handler returns:
// by the last [Call.SetUsage], each of which is also progress.
func (g *GRPC) Stream() grpc.StreamServerInterceptor {
	return func(srv any, inner grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		s := &stream{ServerStream: inner, grpc: g, method: info.FullMethod}
		returned := false
		defer func() { // also when the handler panics, which goes on afterwards
			if c := s.call(); c != nil {
				c.finish(grpcEnding(inner.Context(), err, returned, s.sent.Load()))
			}
		}()
		if info.IsClientStream {
			if err := s.begin(nil); err != nil {
				return err
			}
		}
		err = next(srv, s)
		returned = true
		if refused := s.refused(); refused != nil {
			return refused // whatever the handler made of it
		}
		return err
	}
}

// stream reserves its call when it has its first message.
type stream struct {
	grpc.ServerStream
	grpc   *GRPC
	method string
	sent   atomic.Bool

	mu struct {
		sync.Mutex
		begun bool
		req   any
		call  *Call // nil: not begun, not metered or refused
		err   error // why it is refused
	}
}

func (s *stream) call() *Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.call
}

func (s *stream) refused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.err
}

// begin decides about the call, once.
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
	if err := s.begin(nil); err != nil { // an answer before the request
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
