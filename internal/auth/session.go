// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Session is a stream or a connection of a caller. It ends when the caller may not have it any more: its
// token is revoked, it has lost the scope, or its JWT or certificate has expired. A nil
// Session never ends and may do everything. Its methods are safe for concurrent use.
type Session struct {
	authority *Authority
	rule      rule
	method    string
	grant     atomic.Pointer[Grant]
	ended     chan struct{}
	once      sync.Once
	timer     *time.Timer // nil: the grant does not expire
}

type sessionKey struct{}

// Open returns the session of a stream that GRPC has let in, and a context that has it. The
// caller must Close it. It is nil if nothing can end it: without auth, and for what needs no
// credentials or those of members.
func (a *Authority) Open(ctx context.Context, method string) (context.Context, *Session) {
	g := From(ctx)
	if a == nil || g == nil || g.caller == nil {
		return ctx, nil
	}
	s := a.open(g, grpcRule(method), method)
	return context.WithValue(ctx, sessionKey{}, s), s
}

// open opens a session for a grant.
func (a *Authority) open(g *Grant, r rule, method string) *Session {
	s := &Session{authority: a, rule: r, method: method, ended: make(chan struct{})}
	s.grant.Store(g)
	if !g.expires.IsZero() {
		s.timer = time.AfterFunc(g.expires.Sub(a.now()), s.end)
	}
	a.sessions.Lock()
	a.sessions.open[s] = struct{}{}
	a.sessions.Unlock()
	s.renew() // the callers may have changed since the grant was made
	return s
}

// SessionOf returns the session of a stream, or nil.
func SessionOf(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}

// Close lets go of the session.
func (s *Session) Close() {
	if s == nil {
		return
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	a := s.authority
	a.sessions.Lock()
	defer a.sessions.Unlock()
	delete(a.sessions.open, s)
}

// Grant returns what the session may do now. It is one atomic load.
func (s *Session) Grant() *Grant {
	if s == nil {
		return nil
	}
	return s.grant.Load()
}

// Ended is closed when the session has ended. It is nil for a nil session.
func (s *Session) Ended() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.ended
}

// Err returns why the session has ended, or nil.
func (s *Session) Err() error {
	select {
	case <-s.Ended():
		return unauthenticated("the credentials of this %s were revoked or have expired: open it again with others", s.what())
	default:
		return nil
	}
}

// what names what the session is of.
func (s *Session) what() string {
	if s.method == connection {
		return connection
	}
	return "stream"
}

func (s *Session) end() { s.once.Do(func() { close(s.ended) }) }

// renew gives the session what its credentials grant now, or ends it. It reports whether it
// goes on.
func (s *Session) renew() bool {
	now, g := s.authority.loader.Current(), s.grant.Load()
	if g.callers == now {
		return true
	}
	next := s.authority.again(g, now)
	if next == nil || next.caller.scopes&s.rule.scopes == 0 || s.rule.allRoots && !next.AllKeys() {
		s.end()
		return false
	}
	s.grant.Store(next)
	return true
}

// renew renews all sessions, and returns how many have ended.
func (a *Authority) renew() (ended int) {
	a.sessions.Lock()
	defer a.sessions.Unlock()
	for s := range a.sessions.open {
		if !s.renew() {
			ended++
		}
	}
	return ended
}
