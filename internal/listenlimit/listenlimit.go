// SPDX-License-Identifier: Apache-2.0

// Package listenlimit bounds the connections of a server: in all, and for each remote
// address. When a bound is reached, a new connection takes the place of the one that
// has been idle longest, of the same address or else of the address with the most. If
// none is idle, the new one is refused.
package listenlimit

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/share"
)

const (
	// minIdle is how long a connection without a request stays in any case.
	minIdle = time.Second
	// minLogInterval is the least time between two lines about refused connections.
	minLogInterval = time.Minute
	// refusalTimeout is how long a refused connection stays open for its request, and
	// again for its answer. maxLingering is how many do; the others are closed at once.
	refusalTimeout = 100 * time.Millisecond
	maxLingering   = 16
	maxLinger      = 64 << 10 // bytes that are read and thrown away meanwhile
)

// Options configure a [Listener]. Max and MaxPerAddress are required.
type Options struct {
	Name               string // of the listener, in the log and in metrics
	Max, MaxPerAddress int
	// Reserved is how many of Max only members can have, to whom MaxPerAddress does not
	// apply. Member reports whether an address is that of another member.
	Reserved int
	Member   func(netip.Addr) bool
	// Refusal is written to a refused connection before it is closed, unless many are
	// refused at once. See [HTTPRefusal].
	Refusal []byte
	Metrics *Metrics     // nil: none
	Logger  *slog.Logger // nil: no log
}

// A Listener accepts a bounded number of connections, all of which are a [*Conn].
type Listener struct {
	net.Listener
	options Options
	budget  *share.Budget
	metrics series
	nextLog atomic.Int64 // Unix nanoseconds

	lingering atomic.Int64 // refused connections that are still open

	mu struct {
		sync.Mutex
		peers map[netip.Addr]*Peer // that have connections
	}
}

// New returns a listener that accepts the connections of l.
func New(l net.Listener, o Options) *Listener {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	limited := &Listener{
		Listener: l, options: o,
		budget: share.New(share.Limits{Total: int64(o.Max), PerAddress: int64(o.MaxPerAddress), Reserved: int64(o.Reserved), Member: o.Member}),
	}
	limited.mu.peers = map[netip.Addr]*Peer{}
	limited.metrics = o.Metrics.of(o.Name, limited)
	return limited
}

// Open returns the number of open connections.
func (l *Listener) Open() int { return int(l.budget.Used()) }

// Accept implements net.Listener. It closes the connections that it refuses.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if admitted := l.admit(c); admitted != nil {
			return admitted, nil
		}
	}
}

func (l *Listener) admit(c net.Conn) net.Conn {
	address := share.Address(c.RemoteAddr())
	why := l.budget.Take(address, 1)
	if why != share.None && l.makeRoom(why, address) {
		why = l.budget.Take(address, 1)
	}
	if why != share.None {
		l.refuse(c, why)
		return nil
	}
	admitted := &Conn{Conn: c, listener: l}
	admitted.idleSince.Store(time.Now().UnixNano())
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.mu.peers[address]
	if p == nil {
		p = &Peer{Address: address, Member: l.options.Member != nil && l.options.Member(address), conns: map[*Conn]struct{}{}}
		l.mu.peers[address] = p
	}
	p.conns[admitted] = struct{}{}
	admitted.peer = p
	admitted.remote = remote{c.RemoteAddr(), admitted}
	return admitted
}

// makeRoom closes the connection that has been idle longest, of the address itself if
// its share is used up, else of the address that has most.
func (l *Listener) makeRoom(why share.Refusal, address netip.Addr) bool {
	if why == share.Full {
		if largest, _ := l.budget.Largest(); largest.IsValid() {
			address = largest // or itself, if all are members'
		}
	}
	c := l.longestIdle(address, time.Now().Add(-minIdle))
	if c == nil {
		return false
	}
	_ = c.Close()
	l.metrics.evicted.Inc()
	return true
}

// longestIdle returns the connection of an address that has been idle longest, and
// since before.
func (l *Listener) longestIdle(address netip.Addr, before time.Time) (oldest *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.mu.peers[address]
	if p == nil {
		return nil
	}
	since := before.UnixNano()
	for c := range p.conns {
		if idle := c.idleSince.Load(); c.active.Load() == 0 && idle < since {
			oldest, since = c, idle
		}
	}
	return oldest
}

func (l *Listener) refuse(c net.Conn, why share.Refusal) {
	l.metrics.refused[why].Inc()
	if len(l.options.Refusal) > 0 && l.lingering.Load() < maxLingering { // only Accept adds
		l.lingering.Add(1)
		go func() {
			defer l.lingering.Add(-1)
			l.explain(c)
		}()
	} else {
		_ = c.Close()
	}
	now := time.Now()
	if at := l.nextLog.Load(); now.UnixNano() >= at && l.nextLog.CompareAndSwap(at, now.Add(minLogInterval).UnixNano()) {
		limit := l.options.Max
		if why == share.AddressFull {
			limit = l.options.MaxPerAddress
		}
		l.options.Logger.Warn("connection refused: too many are open", "listener", l.options.Name, "remote", c.RemoteAddr().String(), "limit_of", string(why), "limit", limit, "open", l.Open())
	}
}

// explain answers the request with the refusal and closes the connection.
func (l *Listener) explain(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(refusalTimeout))
	_, _ = c.Read(make([]byte, 4<<10)) // a client does not expect an answer before it has asked
	_ = c.SetDeadline(time.Now().Add(refusalTimeout))
	if _, err := c.Write(l.options.Refusal); err != nil {
		return
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c, maxLinger)) // a close with unread data would be a reset
	}
}

// A Peer is a remote address with connections.
type Peer struct {
	Address netip.Addr
	Member  bool // of the cluster, when its first connection was accepted
	// Counts are for the server of the connections.
	Counts [8]atomic.Int64

	active atomic.Int64       // requests of HTTP in progress
	conns  map[*Conn]struct{} // guarded by Listener.mu
}

// Active returns how many requests of HTTP the peer has in progress, on a server with
// [HTTPState], or calls, see [Conn.SetCalls]. A connection of HTTP/2 counts for one more than
// it has requests.
func (p *Peer) Active() int64 { return p.active.Load() }

// A Conn is a connection of a [Listener].
type Conn struct {
	net.Conn
	listener *Listener
	peer     *Peer
	remote   remote

	mu struct {
		sync.Mutex
		closed bool
		called map[any]func() // by Close; nil: none
	}

	active    atomic.Int64 // requests in progress; above 0: not idle
	idleSince atomic.Int64 // Unix nanoseconds
}

// remote is an address that leads to its connection.
type remote struct {
	net.Addr
	conn *Conn
}

// RemoteAddr implements net.Conn. [Of] finds the connection of the address.
func (c *Conn) RemoteAddr() net.Addr { return &c.remote }

// Of returns the connection that an address is the remote end of, or nil if it is not
// one of a [Listener]. TLS does not hide it.
func Of(a net.Addr) *Conn {
	if r, ok := a.(*remote); ok {
		return r.conn
	}
	return nil
}

// Peer returns the other end.
func (c *Conn) Peer() *Peer { return c.peer }

// Begin says that a request has begun: the connection is not idle until as many have
// ended.
func (c *Conn) Begin() { c.active.Add(1) }

// End says that a request has ended.
func (c *Conn) End() {
	c.idleSince.Store(time.Now().UnixNano())
	c.active.Add(-1)
}

// OnClose calls f when the connection is closed, unless [Conn.Forget] is called with the
// key before. It returns false, and does not call f, if it is closed already.
func (c *Conn) OnClose(key any, f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return false
	}
	if c.mu.called == nil {
		c.mu.called = map[any]func(){}
	}
	c.mu.called[key] = f
	return true
}

// Forget undoes OnClose.
func (c *Conn) Forget(key any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mu.called, key)
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	closed, called := c.mu.closed, c.mu.called
	c.mu.closed, c.mu.called = true, nil
	c.mu.Unlock()
	if closed {
		return err
	}
	for _, f := range called {
		f()
	}
	l := c.listener
	l.mu.Lock()
	delete(c.peer.conns, c)
	if len(c.peer.conns) == 0 {
		delete(l.mu.peers, c.peer.Address)
	}
	l.mu.Unlock()
	l.budget.Give(c.peer.Address, 1)
	return err
}

// connKey is the key of a connection in the contexts of its requests.
type connKey struct{}

// Context returns a context that has a connection, see [FromContext].
func Context(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// HTTPContext is for http.Server.ConnContext: see [FromContext].
func HTTPContext(ctx context.Context, c net.Conn) context.Context {
	if limited := Of(c.RemoteAddr()); limited != nil {
		return Context(ctx, limited)
	}
	return ctx
}

// CountHTTP2 returns a handler that counts each request of HTTP/2 for [Peer.Active],
// because one connection may have many. Its server must use [HTTPContext].
func CountHTTP2(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := FromContext(r.Context()); c != nil && r.ProtoMajor > 1 {
			c.peer.active.Add(1)
			defer c.peer.active.Add(-1)
		}
		h.ServeHTTP(w, r)
	})
}

// FromContext returns the connection of a call, or nil if it is not one of a [Listener], or
// its server does not use [HTTPContext] or [Context].
func FromContext(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// HTTPState is for http.Server.ConnState: it tells connections when they are idle.
func HTTPState(c net.Conn, state http.ConnState) {
	limited := Of(c.RemoteAddr())
	if limited == nil {
		return
	}
	switch state {
	case http.StateActive:
		limited.setActive(1)
	case http.StateIdle:
		limited.idleSince.Store(time.Now().UnixNano())
		limited.setActive(0)
	case http.StateHijacked, http.StateClosed:
		limited.setActive(0)
	case http.StateNew:
	}
}

// SetCalls says how many calls of a connection with a protocol of its own are in progress, for
// [Peer.Active]. With 0 it is idle. It is in place of Begin and End.
func (c *Conn) SetCalls(n int64) {
	if n == 0 {
		c.idleSince.Store(time.Now().UnixNano())
	}
	c.setActive(n)
}

// setActive sets how many requests of HTTP the connection has in progress, 0 or 1, or calls.
func (c *Conn) setActive(n int64) {
	c.peer.active.Add(n - c.active.Swap(n))
}
