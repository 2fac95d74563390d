// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

func TestPlaintextOnlyToLoopback(t *testing.T) {
	tests := []struct {
		addr  string
		local bool
	}{
		{"localhost", true},
		{"localhost:6471", true},
		{"127.0.0.1:1", true},
		{"127.9.9.9", true},
		{"[::1]:6471", true},
		{"::1", true},
		{"::ffff:127.0.0.1", true},
		{"dns:///localhost:6471", true},
		{"unix:/run/bucketring.sock", true},
		{"unix:///run/bucketring.sock", true},
		{"10.0.0.1:6471", false},
		{"0.0.0.0:6471", false},
		{"node-1", false},
		{"localhost.example:6471", false},
		{"127.0.0.1.example:6471", false},
		{"dns:///node-1:6471", false},
		{"dns://127.0.0.1/node-1:6471", false},
	}
	for _, test := range tests {
		for _, o := range []client.Options{{}, {Insecure: true}, {TLS: &tls.Config{}}} {
			o.Addrs = []string{test.addr}
			plain := o.TLS == nil && !o.Insecure
			c, err := client.Dial(o)
			if refused := err != nil; refused != (plain && !test.local) {
				t.Errorf("Dial(%s, plaintext unasked %v) = %v, want refused: %v", test.addr, plain, err, plain && !test.local)
			}
			if err == nil {
				_ = c.Close()
			}
		}
	}
}

func TestDialReportsEveryProblem(t *testing.T) {
	_, err := client.Dial(client.Options{
		Addrs:       []string{"node-1:6471", "", ":6471", "node 2", "://x", "node-1:6471:1"},
		TLS:         &tls.Config{},
		Insecure:    true,
		Timeout:     -time.Second,
		MaxAttempts: -1,
		MaxPeers:    -1, MaxPendingSettlements: -1,
	})
	if err == nil {
		t.Fatal("Dial() = nil, want an error")
	}
	want := strings.Join([]string{
		`dial: addrs: must be host:port, got ""`,
		`addrs: must be host:port, got ":6471"`,
		`addrs: must be host:port, got "node 2"`,
		`addrs: must be host:port, got "://x"`,
		`addrs: must be host:port, got "node-1:6471:1"`,
		`insecure: must not be set together with TLS`,
		`timeout: must not be negative, got -1s`,
		`max_attempts: must not be negative, got -1`,
		`max_peers: must not be negative, got -1`,
		`max_pending_settlements: must not be negative, got -1`,
	}, "\n")
	if err.Error() != want {
		t.Errorf("Dial() =\n%v\nwant\n%s", err, want)
	}
}

func TestZeroOptionsWork(t *testing.T) {
	c, err := client.Dial(client.Options{})
	if err != nil {
		t.Fatalf("Dial(Options{}) = %v, want a client for %s", err, client.DefaultAddr)
	}
	_ = c.Close()
}

// Plaintext on loopback, and TLS with a trusted certificate, over real connections.
func TestRealConnections(t *testing.T) {
	certs := httptest.NewTLSServer(nil) // for its certificate alone
	defer certs.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certs.Certificate())

	for _, test := range []struct {
		name    string
		server  []grpc.ServerOption
		client  *tls.Config
		allowed bool
	}{
		{"plaintext", nil, nil, true},
		{"tls", []grpc.ServerOption{grpc.Creds(credentials.NewServerTLSFromCert(&certs.TLS.Certificates[0]))}, &tls.Config{RootCAs: roots}, true},
		{"untrusted", []grpc.ServerOption{grpc.Creds(credentials.NewServerTLSFromCert(&certs.TLS.Certificates[0]))}, &tls.Config{RootCAs: x509.NewCertPool()}, false},
		{"tls to plaintext", nil, &tls.Config{RootCAs: roots}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := serve(t, newFake().node(), test.server...)
			c, err := client.Dial(client.Options{Addrs: []string{addr}, TLS: test.client, Timeout: 5 * time.Second})
			if err != nil {
				t.Fatalf("Dial(%s) = %v", addr, err)
			}
			defer func() { _ = c.Close() }()
			d, err := c.Check(t.Context(), client.Call{Key: "acme/alice"})
			if d.Allowed() != test.allowed {
				t.Errorf("Check() = %q, %v, want allowed: %v", d.Outcome, err, test.allowed)
			}
		})
	}
}

// serve answers on a loopback port until the test ends.
func serve(t *testing.T, svc pb.RateLimiterServer, options ...grpc.ServerOption) (addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	pb.RegisterRateLimiterServer(s, svc)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}
