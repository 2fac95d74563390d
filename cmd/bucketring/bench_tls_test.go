// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/node"
)

// authority signs certificates for one test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.make("ca", nil)
	return a
}

// make writes NAME.pem and NAME.key.
func (a *authority) make(name string, hosts []string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.n++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = c, key
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for suffix, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(a.path(name+suffix), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// server returns the configuration of a server with a certificate for hosts. It requires a
// client certificate if mutual.
func (a *authority) server(mutual bool, protocol string, hosts ...string) *tls.Config {
	a.t.Helper()
	name := "server-" + strings.Join(hosts, "-")
	a.make(name, hosts)
	pair, err := tls.LoadX509KeyPair(a.path(name+".pem"), a.path(name+".key"))
	if err != nil {
		a.t.Fatal(err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{protocol}}
	if mutual {
		c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		c.ClientCAs.AddCert(a.cert)
	}
	return c
}

// front is a TLS proxy to a server without TLS.
func front(t *testing.T, c *tls.Config, at, behind string) string {
	t.Helper()
	l, err := tls.Listen("tcp", at, c)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { join(from, behind) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait() // who asked has closed its connections
	})
	return l.Addr().String()
}

func join(from net.Conn, behind string) {
	defer from.Close()
	to, err := net.Dial("tcp", behind)
	if err != nil {
		return
	}
	defer to.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].Close()
		})
	}
	both.Wait()
}

// oneNode runs a node that advertises host.
func oneNode(t *testing.T, host string) *node.Node {
	t.Helper()
	c := config.Default()
	c.Name, c.HTTP, c.GRPC, c.Gossip, c.Advertise = "n1", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", host
	up := make(chan struct{}) // closed when the node is ready
	n, err := node.New(node.Options{Config: c, OnReady: func(*node.Node) { close(up) }, SkipLeave: true, ExpectedMembers: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	select {
	case <-up:
	case <-time.After(waitLimit):
		t.Fatal("the node is not ready")
	}
	return n
}

// inProcess runs the command in this process.
func inProcess(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	s := &streams{out: &out, err: &errs, lookupEnv: func(string) (string, bool) { return "", false }}
	root := newRoot(s)
	root.SetArgs(args)
	code = s.report(root.ExecuteContext(t.Context()), false)
	return out.String(), errs.String(), code
}

// shortRun returns the arguments of a run that takes a fraction of a second.
func shortRun(args ...string) []string {
	return append([]string{"bench", "run", "--rate", "100", "--for", "300ms", "--warmup", "0s", "--timeout", "10s", "--out", "", "--report", ""}, args...)
}

// limits is a server of Envoy's protocol that records the last request.
type limits struct {
	rls.UnimplementedRateLimitServiceServer

	mu   sync.Mutex
	last string
}

func (l *limits) ShouldRateLimit(_ context.Context, q *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = q.GetDomain() + "/" + q.GetDescriptors()[0].GetEntries()[0].GetKey()
	return &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}, nil
}

func (l *limits) lastRequest() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// serveLimits serves Envoy's protocol, with TLS if c is set.
func serveLimits(t *testing.T, c *tls.Config) (at string, l *limits) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var options []grpc.ServerOption
	if c != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(c)))
	}
	server, l := grpc.NewServer(options...), &limits{}
	rls.RegisterRateLimitServiceServer(server, l)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String(), l
}

// wantRun checks that every call of a run is answered.
func wantRun(t *testing.T, args ...string) {
	t.Helper()
	stdout, stderr, code := inProcess(t, shortRun(append(args, "-o", "json")...)...)
	if code != 0 || strings.Contains(stdout, `"achieved": 0,`) || !strings.Contains(stdout, `"failed": 0,`) || strings.Contains(stdout, `"errors"`) {
		t.Errorf("%v = exit %d, want a run in which every call is answered:\n%s%s", args, code, stdout, stderr)
	}
}

func TestBenchOverTLS(t *testing.T) {
	a := newAuthority(t)
	n := oneNode(t, "")
	h2 := a.server(true, "h2", "127.0.0.1")
	a.make("me", nil)
	trust := []string{"--tls-ca", a.path("ca.pem"), "--tls-cert", a.path("me.pem"), "--tls-key", a.path("me.key")}

	at, asked := serveLimits(t, h2)
	for name, spec := range map[string]string{
		"grpc":  "grpc:" + front(t, h2, "127.0.0.1:0", n.GRPCAddr()),
		"https": "https://" + front(t, a.server(true, "http/1.1", "127.0.0.1"), "127.0.0.1:0", n.HTTPAddr()),
		"rls":   "rls:" + at,
	} {
		t.Run(name, func(t *testing.T) { wantRun(t, append(trust, "--target", spec)...) })
	}
	if got := asked.lastRequest(); got != "bucketring/key" {
		t.Errorf("rls was asked for %q, want bucketring/key", got)
	}
	t.Run("client", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("needs a second loopback address")
		}
		// The node advertises the host of its front, with its own port.
		n := oneNode(t, "127.0.0.2")
		_, port, _ := net.SplitHostPort(n.GRPCAddr())
		at := front(t, a.server(true, "h2", "127.0.0.2"), net.JoinHostPort("127.0.0.2", port), n.GRPCAddr())
		wantRun(t, append(trust, "--servers", at)...)
	})
	t.Run("another name", func(t *testing.T) {
		at, _ := serveLimits(t, a.server(false, "h2", "limits.test"))
		wantRun(t, "--target", "rls:"+at, "--tls-ca", a.path("ca.pem"), "--tls-name", "limits.test")
	})
	// One target over TLS, and one without.
	t.Run("beside plaintext", func(t *testing.T) {
		wantRun(t, append(trust, "--target", "rls:"+at, "--vs", "http://"+n.HTTPAddr(), "--rounds", "2")...)
	})
}

func TestBenchOverTLSToRedis(t *testing.T) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	a := newAuthority(t)
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.CommandContext(t.Context(), binary, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // the context has ended by now
	plain := passOn(t, socket)
	for deadline := time.Now().Add(waitLimit); ; {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("redis-server does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
	at := front(t, a.server(false, "", "127.0.0.1"), "127.0.0.1:0", plain)
	wantRun(t, "--target", "rediss://"+at, "--vs", "rediss-lua://"+at, "--rounds", "2", "--tls-ca", a.path("ca.pem"))
}

// passOn forwards connections to a Unix socket.
func passOn(t *testing.T, socket string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer from.Close()
				to, err := net.Dial("unix", socket)
				if err != nil {
					return
				}
				defer to.Close()
				back := make(chan struct{})
				go func() {
					defer close(back)
					_, _ = io.Copy(from, to)
					_ = from.Close()
				}()
				_, _ = io.Copy(to, from)
				_ = to.Close()
				<-back
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

func TestBenchSendsRLSDescriptor(t *testing.T) {
	at, asked := serveLimits(t, nil)
	wantRun(t, "--target", "rls:"+at, "--rls-domain", "shop", "--rls-entry", "user")
	if got := asked.lastRequest(); got != "shop/user" {
		t.Errorf("the server was asked for %q, want shop/user", got)
	}
}

func TestBenchTLSMistakes(t *testing.T) {
	a := newAuthority(t)
	other := newAuthority(t)
	a.make("me", nil)
	if err := os.WriteFile(a.path("empty.pem"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, _ := serveLimits(t, nil)
	secure, _ := serveLimits(t, a.server(false, "h2", "127.0.0.1"))
	named, _ := serveLimits(t, a.server(false, "h2", "limits.test"))
	mutual, _ := serveLimits(t, a.server(true, "h2", "127.0.0.1"))
	ca := a.path("ca.pem")
	for _, c := range []struct {
		name        string
		args        []string
		code        int
		error, hint string
	}{
		{"no CA", []string{"--target", "rls:" + secure, "--tls-ca", a.path("no.pem")}, 2, "error: --tls-ca: stat ", "--help"},
		{"empty CA", []string{"--target", "rls:" + secure, "--tls-ca", a.path("empty.pem")}, 2, "has no certificate in PEM form", "--help"},
		{"no key", []string{"--target", "rls:" + secure, "--tls-cert", a.path("me.pem")}, 2, "--tls-cert: needs --tls-key", "--help"},
		{"no certificate", []string{"--target", "rls:" + secure, "--tls-key", a.path("me.key")}, 2, "--tls-key: needs --tls-cert", "--help"},
		{"key of another certificate", []string{"--target", "rls:" + secure, "--tls-cert", a.path("me.pem"), "--tls-key", a.path("ca.key")}, 2, "private key does not match", "--help"},
		{"plain kinds", []string{"--target", "null:", "--vs", "redis://:secret@127.0.0.1:1", "--tls"}, 2, "--tls: no target of this run uses TLS", "try: rediss://127.0.0.1:1"},
		{"local", []string{"--local", "3", "--tls-ca", ca}, 2, "--tls-ca: no target of this run uses TLS", "nodes of --local"},
		{"insecure", []string{"--target", "rls:" + secure, "--tls", "--insecure"}, 2, "--insecure: with --tls, all targets use TLS", "leave out one"},
		{"another machine", []string{"--target", "grpc:192.0.2.1:1"}, 2, "192.0.2.1:1 is not a loopback address", "try: --tls, or --insecure"},
		{"another machine beside a cluster", []string{"--local", "3", "--vs", "redis://192.0.2.1", "--rounds", "1"}, 2, "192.0.2.1:6379 is not a loopback address", "try: --tls, or --insecure"},
		{"no rls", []string{"--target", "null:", "--rls-domain", "my shop"}, 2, "--rls-domain: needs a target of kind rls", "try: bucketring bench run --target rls:HOST:8081 --rls-domain 'my shop'"},
		{"empty entry", []string{"--target", "rls:" + plain, "--rls-entry", ""}, 2, "--rls-entry: must not be empty", "--help"},

		{"unknown CA", []string{"--target", "rls:" + secure, "--tls-ca", other.path("ca.pem")}, 1, "signed by unknown authority", "try: --tls-ca"},
		{"another name", []string{"--target", "rls:" + named, "--tls-ca", ca}, 1, "x509: cannot validate", "try: --tls-name"},
		{"client certificate required", []string{"--target", "rls:" + mutual, "--tls-ca", ca}, 1, "does not answer", "try: --tls-cert"},
		{"plain server", []string{"--target", "rls:" + plain, "--tls"}, 1, "does not look like a TLS handshake", "try: leave out --tls"},
		{"secure server", []string{"--target", "rls:" + secure}, 1, "error reading server preface", "try: --tls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, code := inProcess(t, shortRun(append(c.args, "--wait", "3s")...)...)
			if code != c.code || !strings.Contains(stderr, c.error) || !strings.Contains(stderr, c.hint) || strings.Contains(stderr, "secret") {
				t.Errorf("%v = exit %d, want %d with %q and %q:\n%s%s", c.args, code, c.code, c.error, c.hint, stdout, stderr)
			}
		})
	}
}
