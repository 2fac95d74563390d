// SPDX-License-Identifier: Apache-2.0

package listenlimit

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/waittest"
)

const patience = 10 * time.Second

// fakes is a listener of connections that tests make up.
type fakes chan net.Conn

func (f fakes) Accept() (net.Conn, error) {
	c, open := <-f
	if !open {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (f fakes) Close() error   { close(f); return nil }
func (f fakes) Addr() net.Addr { return &net.TCPAddr{} }

// fake is a connection from an address.
type fake struct {
	net.Conn
	from net.Addr
}

func (f fake) RemoteAddr() net.Addr { return f.from }

// dial connects from an address. It returns the accepted connection, or nil if it was
// refused, and the other end.
func dial(t *testing.T, l *Listener, from string) (*Conn, net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { _ = near.Close() })
	f := l.Listener.(fakes)
	f <- fake{far, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from + ":1000"))}
	c, err := f.Accept()
	if err != nil {
		t.Fatal(err)
	}
	admitted, _ := l.admit(c).(*Conn)
	return admitted, near
}

func limited(o Options) *Listener { return New(make(fakes, 1), o) }

func (c *Conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.closed
}

func TestOnClose(t *testing.T) {
	l := limited(Options{Max: 1, MaxPerAddress: 1})
	c, _ := dial(t, l, "10.0.0.1")
	var called []string
	for _, key := range []string{"a", "b"} {
		if !c.OnClose(key, func() { called = append(called, key) }) {
			t.Errorf("OnClose(%s) = false", key)
		}
	}
	c.Forget("a")
	_, _ = c.Close(), c.Close()
	if len(called) != 1 || called[0] != "b" {
		t.Errorf("called = %q, want b once", called)
	}
	if c.OnClose("c", func() { t.Error("called after Close") }) {
		t.Error("OnClose() of a closed connection = true")
	}
}

// idle makes a connection look as if it had been idle for so long.
func idle(c *Conn, d time.Duration) { c.idleSince.Store(time.Now().Add(-d).UnixNano()) }

func TestShares(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := limited(Options{
		Name: "http", Max: 4, MaxPerAddress: 2, Reserved: 1,
		Member:  func(a netip.Addr) bool { return a.String() == "10.0.0.9" },
		Metrics: NewMetrics(reg),
	})
	first, _ := dial(t, l, "10.0.0.1")
	second, _ := dial(t, l, "10.0.0.1")
	if first == nil || second == nil {
		t.Fatal("connections below the limits are refused")
	}
	if c, _ := dial(t, l, "10.0.0.1"); c != nil {
		t.Error("a third connection of an address is accepted while none of its two is idle, want it refused")
	}
	if c, _ := dial(t, l, "10.0.0.2"); c == nil {
		t.Error("a connection of another address is refused")
	}
	if c, _ := dial(t, l, "10.0.0.3"); c != nil {
		t.Error("the place that is reserved for members is given to another address")
	}
	member, _ := dial(t, l, "10.0.0.9")
	if member == nil || !member.Peer().Member {
		t.Error("a member is refused")
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if c, _ := dial(t, l, "10.0.0.3"); c == nil {
		t.Error("no connection is accepted after one was closed")
	}
	want := map[string]float64{
		"bucketring_connections http": 4, "bucketring_connections_limit http": 4, "bucketring_connections_evicted_total http": 0,
		"bucketring_connections_refused_total address http": 1, "bucketring_connections_refused_total node http": 1,
	}
	if diff := cmp.Diff(want, gather(t, reg)); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
}

// gather returns the values of all metrics by name and labels.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

func TestLongestIdleGivesWay(t *testing.T) {
	l := limited(Options{Max: 4, MaxPerAddress: 3})
	busy, _ := dial(t, l, "10.0.0.1")
	busy.Begin()
	idle(busy, time.Hour)
	older, _ := dial(t, l, "10.0.0.1")
	idle(older, time.Minute)
	younger, _ := dial(t, l, "10.0.0.1")
	idle(younger, 2*minIdle)
	other, _ := dial(t, l, "10.0.0.2")
	idle(other, 2*time.Hour)

	// The node is full: the address with the most connections gives one.
	if c, _ := dial(t, l, "10.0.0.3"); c == nil || !older.isClosed() {
		t.Errorf("another address got %v, want the place of the connection that is idle longest", c)
	}
	if busy.isClosed() || younger.isClosed() || other.isClosed() {
		t.Error("a busy connection, a younger one, or one of an address with fewer was closed")
	}
	// An address that is at its share replaces its own.
	third, _ := dial(t, l, "10.0.0.1")
	if third == nil || !younger.isClosed() || other.isClosed() {
		t.Error("an address did not get the place of its own idle connection")
	}
	if c, _ := dial(t, l, "10.0.0.1"); c != nil {
		t.Errorf("a connection younger than %s was closed for another", minIdle)
	}
	busy.End()
	idle(busy, 2*minIdle)
	if c, _ := dial(t, l, "10.0.0.1"); c == nil || !busy.isClosed() {
		t.Error("a connection is not idle after its request ended")
	}
}

// listen returns a limited listener on loopback.
func listen(t *testing.T, o Options) *Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return New(l, o)
}

// TestHTTP lets a connection that is idle make room, not one in a request, and tells
// who is refused why.
func TestHTTP(t *testing.T) {
	l := listen(t, Options{Max: 2, MaxPerAddress: 2, Refusal: HTTPRefusal()})
	release := make(chan struct{})
	server := &http.Server{ConnState: HTTPState, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if Of(r.Context().Value(http.LocalAddrContextKey).(net.Addr)) != nil || r.RemoteAddr == "" {
			t.Errorf("remote address = %q", r.RemoteAddr)
		}
		if r.URL.Path == "/slow" {
			<-release
		}
		fmt.Fprint(w, "ok")
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	client := func() *http.Client {
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: patience}
	}
	url := "http://" + l.Addr().String()
	get := func(c *http.Client, path string) error {
		answer, err := c.Get(url + path)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %s %w", answer.Status, body, err)
		}
		return nil
	}
	slow := make(chan error, 1)
	go func() { slow <- get(client(), "/slow") }()
	waittest.Until(t, "a request is in progress", func() bool { return l.Open() == 1 })
	if err := get(client(), "/"); err != nil {
		t.Fatal(err)
	}
	// Its connection is idle now, but too young to give way.
	refused, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	_ = refused.SetDeadline(time.Now().Add(patience))
	if answer, err := io.ReadAll(refused); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 503 ") || !strings.Contains(string(answer), tooMany) {
		t.Errorf("a refused connection reads %q, %v, want 503 and the reason", answer, err)
	}
	l.mu.Lock()
	for _, p := range l.mu.peers {
		for c := range p.conns {
			idle(c, time.Minute)
		}
	}
	l.mu.Unlock()
	if err := get(client(), "/"); err != nil {
		t.Errorf("a request with idle connections open = %v, want an answer", err)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("the request in progress = %v, want an answer", err)
	}
}
