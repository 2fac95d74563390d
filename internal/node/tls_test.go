// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/internal/certs"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/tlserror"
	"github.com/bucketring/bucketring/internal/tlsfiles"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// authority is a CA, with a directory of what it has issued.
type authority struct {
	*certs.Authority
	t   *testing.T
	dir string
	ca  string // file with its certificate, and those of others
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	ca, err := certs.New(name, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{Authority: ca, t: t, dir: t.TempDir()}
	if a.ca, _, err = ca.Write(a.dir, "ca"); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pair(name string, member bool, lifetime time.Duration) certs.Pair {
	a.t.Helper()
	r := certs.Request{Name: name, Client: !member, NotBefore: time.Now().Add(-time.Hour), Expires: time.Now().Add(lifetime)}
	if member {
		r.DNS, r.IPs = []string{name, "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	p, err := a.Issue(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return p
}

// files issues a certificate, and returns its files.
func (a *authority) files(name string, member bool) tlsfiles.Files {
	a.t.Helper()
	cert, key := certs.Paths(a.dir, name)
	if _, err := os.Stat(cert); err != nil {
		if _, _, err := a.pair(name, member, time.Hour).Write(a.dir, name); err != nil {
			a.t.Fatal(err)
		}
	}
	return tlsfiles.Files{Cert: cert, Key: key, CA: a.ca}
}

// store opens the files of a certificate.
func (a *authority) store(name string, member bool) *tlsfiles.Store {
	a.t.Helper()
	s, err := tlsfiles.Open(tlsfiles.Options{Files: a.files(name, member), Name: name})
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

// settings are the settings of a member.
func (a *authority) settings(mode, callers string) func(int, *config.Config) {
	return func(_ int, c *config.Config) {
		f := a.files(c.Name, true)
		c.TLS = config.TLS{Mode: mode, CertFile: f.Cert, KeyFile: f.Key, CAFile: f.CA, ClientAuth: callers}
	}
}

// wire records what connections carry, below TLS, and counts them.
type wire struct {
	mu     sync.Mutex
	bytes  bytes.Buffer
	opened atomic.Int64
	closed atomic.Int64
}

func (w *wire) wrap(l net.Listener) net.Listener { return &wireListener{l, w} }

func (w *wire) carried(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.bytes.Bytes(), []byte(text))
}

type wireListener struct {
	net.Listener
	wire *wire
}

func (l *wireListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.wire.opened.Add(1)
	return &wireConn{Conn: c, wire: l.wire}, nil
}

type wireConn struct {
	net.Conn
	wire *wire
	once sync.Once
}

func (c *wireConn) record(b []byte) {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	if c.wire.bytes.Len() < 32<<20 {
		c.wire.bytes.Write(b)
	}
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.record(b[:n])
	return n, err
}

func (c *wireConn) Write(b []byte) (int, error) {
	c.record(b)
	return c.Conn.Write(b)
}

func (c *wireConn) Close() error {
	c.once.Do(func() { c.wire.closed.Add(1) })
	return c.Conn.Close()
}

// secureCluster starts nodes that gossip with a key and need TLS.
func secureCluster(t *testing.T, n int, a *authority, w *wire, edit func(int, *config.Config)) (nodes []*running, key []byte) {
	t.Helper()
	key = bytes.Repeat([]byte{7}, 32)
	path := filepath.Join(t.TempDir(), "cluster.key")
	if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		nodes = append(nodes, startWith(t, func(c *config.Config) {
			c.Name, c.ClusterKeyFile = fmt.Sprintf("n%d", i+1), path
			if i > 0 {
				c.Join = []string{nodes[0].GossipAddr()}
			}
			edit(i, c)
		}, func(o *Options) {
			if w != nil {
				o.wrapListener = w.wrap
			}
		}))
	}
	agree(t, nodes...)
	return nodes, key
}

// post sends a check over HTTP.
func post(c *tls.Config, scheme, address, key string) (status int, text string, err error) {
	transport := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: waittest.Limit}).Post(scheme+"://"+address+"/v1/check", "", strings.NewReader(fmt.Sprintf(`{"key":%q,"tier":"free"}`, key)))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// ask sends a check over gRPC, on a new connection.
func ask(t *testing.T, creds credentials.TransportCredentials, address, key string) (*pb.Decision, error) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	return pb.NewRateLimiterClient(conn).Check(ctx, &pb.CheckRequest{Key: key, Tier: "free"})
}

// without returns a configuration that gives no certificate.
func without(c *tls.Config) *tls.Config {
	c.GetClientCertificate = nil
	return c
}

// TestTLS runs three members that need TLS, and callers who need certificates. Wrong ones
// are refused and charge nothing, and no key is readable on any wire.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ours"), newAuthority(t, "theirs")
	var w wire
	nodes, _ := secureCluster(t, 3, ca, &w, ca.settings("required", "require"))
	alice, stranger := ca.store("alice", false), other.store("alice", false)
	expired := filepath.Join(t.TempDir(), "old")
	cert, key, err := ca.pair("alice", false, -time.Minute).Write(expired, "alice")
	if err != nil {
		t.Fatal(err)
	}
	old, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	withOld := func() *tls.Config {
		c := without(alice.Client(""))
		c.Certificates = []tls.Certificate{old}
		return c
	}
	const secret = "acme-reads-this/alice"
	first := nodes[0]
	for _, tt := range []struct {
		name   string
		config func() *tls.Config
		want   string
	}{
		{"no certificate", func() *tls.Config { return without(alice.Client("")) }, "certificate required"},
		{"a stranger's", func() *tls.Config { c := stranger.Client(""); c.RootCAs = alice.Client("").RootCAs; return c }, "unknown certificate authority"},
		{"expired", withOld, "expired certificate"},
		{"another CA of the server", func() *tls.Config { c := alice.Client(""); c.RootCAs = x509.NewCertPool(); return c }, "unknown authority"},
		{"another name of the server", func() *tls.Config { return alice.Client("n9") }, "not n9"},
	} {
		if _, _, err := post(tt.config(), "https", first.HTTPAddr(), secret); err == nil || !strings.Contains(err.Error(), tt.want) || tlserror.Remedy(err) == "" {
			t.Errorf("HTTP, %s: %v (%s), want %q and a remedy", tt.name, err, tlserror.Remedy(err), tt.want)
		}
		// A server may close the connection before its reason is read.
		if _, err := ask(t, credentials.NewTLS(tt.config()), first.GRPCAddr(), secret); err == nil {
			t.Errorf("gRPC, %s: no error", tt.name)
		}
	}
	if status, text, _ := post(nil, "http", first.HTTPAddr(), secret); status != http.StatusBadRequest || !strings.Contains(text, "needs TLS") {
		t.Errorf("plaintext HTTP = %d %s, want that it needs TLS", status, text)
	}
	if _, err := ask(t, insecure.NewCredentials(), first.GRPCAddr(), secret); err == nil {
		t.Error("plaintext gRPC: no error")
	}
	w.mu.Lock()
	w.bytes.Reset() // what was refused in plaintext
	w.mu.Unlock()

	left := map[int64]bool{}
	for i, n := range nodes { // one of them owns the key: members forward it
		d, err := ask(t, alice.ServerCredentials(""), n.GRPCAddr(), secret)
		if err != nil || d.GetOwner() == "" {
			t.Fatalf("gRPC at %s: %v, %v", n.Name(), d, err)
		}
		if route := d.GetRoute(); route == pb.Route_ROUTE_FALLBACK {
			t.Errorf("gRPC at %s: decided in fallback", n.Name())
		}
		left[d.GetLimits()[0].GetRemaining()] = true
		if status, text, err := post(alice.Client(""), "https", n.HTTPAddr(), secret); err != nil || status != http.StatusOK {
			t.Errorf("HTTP at %s, %d: %d %s, %v", n.Name(), i, status, text, err)
		}
	}
	if len(left) != 3 || !left[9] { // free has 10 requests: the first of these checks was the first that charged
		t.Errorf("remaining after each check by gRPC: %v, want that the refused calls charged nothing", left)
	}
	if w.carried("acme-reads-this") {
		t.Error("a key is readable on a wire")
	}
	status := first.Status()
	if s := status.TLS; s == nil || s.Mode != "required" || len(s.Files) != 1 || s.Files[0].Problem != "" || s.Files[0].Expires.IsZero() {
		t.Errorf("status of TLS = %+v", s)
	}
	if len(status.Cluster.Unvouched) > 0 {
		t.Errorf("unvouched = %v", status.Cluster.Unvouched)
	}
}

// TestPlaintextIsReadable is the control of TestTLS: the recording sees a key without TLS.
func TestPlaintextIsReadable(t *testing.T) {
	t.Parallel()
	var w wire
	r := startWith(t, nil, func(o *Options) { o.wrapListener = w.wrap })
	if _, _, err := post(nil, "http", r.HTTPAddr(), "acme-reads-this/alice"); err != nil || !w.carried("acme-reads-this") {
		t.Errorf("the recording has no key: %v", err)
	}
}

// TestRotation replaces the CA and all certificates while calls run: none fails, and no
// connection ends.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, next := newAuthority(t, "old"), newAuthority(t, "next")
	var w wire
	nodes, _ := secureCluster(t, 2, old, &w, old.settings("required", "require"))
	caller := old.store("caller", false)
	c, err := client.Dial(client.Options{Addrs: []string{nodes[0].GRPCAddr()}, Credentials: caller.ServerCredentials("localhost"), Timeout: waittest.Limit})
	if err != nil {
		t.Fatal(err)
	}
	kept := &http.Client{Transport: &http.Transport{TLSClientConfig: caller.Client("")}}
	defer kept.CloseIdleConnections()
	var calls atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	keep := func(call func(i int) error) {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := call(i); err != nil {
					t.Errorf("a call failed: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	keep(func(i int) error {
		_, err := c.Check(context.Background(), client.Call{Key: fmt.Sprintf("k%d", i%100)})
		return err
	})
	keep(func(i int) error {
		resp, err := kept.Post("https://"+nodes[1].HTTPAddr()+"/v1/check", "", strings.NewReader(fmt.Sprintf(`{"key":"k%d"}`, i%100)))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return err
	})
	defer load.Wait()
	defer cancel()
	more := func() {
		t.Helper()
		before := calls.Load()
		waittest.Until(t, "more calls", func() bool { return calls.Load() > before+200 })
	}
	more()
	waittest.Until(t, "the client's connections to both", func() bool { return w.opened.Load() >= 4 })
	closed := w.closed.Load()

	write := func(path string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	// 1. both CAs are accepted, 2. new certificates, 3. the old CA is not accepted any more.
	write(old.ca, bytes.Join([][]byte{old.Cert, next.Cert}, nil))
	more()
	for _, name := range []string{"n1", "n2", "caller"} {
		f := old.files(name, true)
		p := next.pair(name, name != "caller", time.Hour)
		write(f.Cert, p.Cert)
		write(f.Key, p.Key)
	}
	more()
	write(old.ca, next.Cert)
	more()
	if n := w.closed.Load() - closed; n != 0 {
		t.Errorf("%d connections were closed, want none", n)
	}
	for _, n := range nodes {
		if _, err := ask(t, next.store("new-caller", false).ServerCredentials(""), n.GRPCAddr(), "after"); err != nil {
			t.Errorf("a caller of the new CA at %s: %v", n.Name(), err)
		}
		if _, err := ask(t, newOldCaller(t, old, next).ServerCredentials(""), n.GRPCAddr(), "after"); err == nil {
			t.Errorf("a caller of the old CA at %s: no error", n.Name())
		}
		if s := n.Status().TLS.Files[0]; s.Problem != "" || !strings.Contains(s.Issuer, "next") {
			t.Errorf("files of %s: %+v", n.Name(), s)
		}
	}
	cancel()
	load.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// newOldCaller returns a caller with a certificate of the old CA, who accepts the new one.
func newOldCaller(t *testing.T, old, next *authority) *tlsfiles.Store {
	t.Helper()
	cert, key, err := old.pair("late", false, time.Hour).Write(t.TempDir(), "late")
	if err != nil {
		t.Fatal(err)
	}
	s, err := tlsfiles.Open(tlsfiles.Options{Files: tlsfiles.Files{Cert: cert, Key: key, CA: next.ca}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
