// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	controlplane "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	ratelimit "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
)

// identity has the files of a certificate, its key and its authority.
type identity struct{ cert, key, ca string }

// newIdentity creates a self-signed identity for 127.0.0.1, envoy.example and
// spiffe://test/envoy.
func newIdentity(t *testing.T) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"envoy.example"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "test", Path: "/envoy"}}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	id := identity{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "tls.crt")}
	for path, block := range map[string]*pem.Block{id.cert: {Type: "CERTIFICATE", Bytes: der}, id.key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return id
}

// tls returns a configuration for servers and clients.
func (id identity) tls(t *testing.T) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(id.cert, id.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

// startPlane serves one domain over mutual TLS, like Envoy Gateway.
func startPlane(t *testing.T, id identity, states cache.SnapshotCache) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(id.tls(t))))
	discovery.RegisterAggregatedDiscoveryServiceServer(s, controlplane.NewServer(t.Context(), states, nil))
	ended := make(chan struct{}) // closed when the server has ended
	go func() {
		defer close(ended)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-ended })
	return l.Addr().String()
}

func TestEnvoyWithAControlPlane(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	states := cache.NewSnapshotCache(true, cache.IDHash{}, nil)
	plane := startPlane(t, id, states)
	r := startWith(t, func(c *config.Config) {
		c.EnvoyXDS, c.EnvoyXDSNode, c.EnvoyListen = plane, "gateway-ratelimit", "127.0.0.1:0"
		c.EnvoyCertFile, c.EnvoyKeyFile, c.EnvoyCAFile = id.cert, id.key, id.ca
	}, func(o *Options) { o.Now = midday })

	dial := func(c *tls.Config) *grpc.ClientConn {
		conn, err := grpc.NewClient(r.EnvoyAddr(), grpc.WithTransportCredentials(credentials.NewTLS(c)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	conn := dial(id.tls(t))
	ask := func(conn *grpc.ClientConn) (*rls.RateLimitResponse, error) {
		return rls.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", Descriptors: descriptors{of("user", "a")}})
	}
	if _, err := ask(conn); grpcstatus.Code(err) != codes.Unavailable || r.envoyHealth(conn) != "NOT_SERVING" {
		t.Errorf("before there are rules: %v, health %s, want Unavailable and NOT_SERVING", err, r.envoyHealth(conn))
	}
	s, err := cache.NewSnapshot("1", map[resource.Type][]types.Resource{resource.RateLimitConfigType: {&ratelimit.RateLimitConfig{
		Name: "shop", Domain: "shop", Descriptors: []*ratelimit.RateLimitDescriptor{{
			Key: "user", RateLimit: &ratelimit.RateLimitPolicy{Unit: ratelimit.RateLimitUnit_DAY, RequestsPerUnit: 1},
		}},
	}}})
	if err == nil {
		err = states.SetSnapshot(context.Background(), "gateway-ratelimit", s)
	}
	if err != nil {
		t.Fatal(err)
	}
	waittest.Until(t, "the rules of the control plane", func() bool { return r.envoyHealth(conn) == "SERVING" })
	for _, want := range []string{"OK: OK", "OVER_LIMIT: OVER_LIMIT"} {
		if got, err := ask(conn); err != nil || codesOf(got) != want {
			t.Errorf("ShouldRateLimit = %v, %v, want %s", got, err, want)
		}
	}
	if s := r.Status().Envoy; s.Plane == nil || !s.Plane.Connected || s.Plane.Version != "1" || s.Files != nil || len(s.Domains) != 1 {
		t.Errorf("status = %+v %+v, want version 1 of the control plane", s, s.Plane)
	}

	// A client without a certificate is rejected.
	for name, c := range map[string]*tls.Config{
		"no certificate":    {RootCAs: id.tls(t).RootCAs, MinVersion: tls.VersionTLS12},
		"a stranger's":      {RootCAs: id.tls(t).RootCAs, MinVersion: tls.VersionTLS12, Certificates: newIdentity(t).tls(t).Certificates},
		"an unknown server": newIdentity(t).tls(t),
	} {
		if got, err := ask(dial(c)); err == nil {
			t.Errorf("with %s: ShouldRateLimit = %v, want an error", name, got)
		}
	}
}

func TestEnvoyCertificatesMustBeThere(t *testing.T) {
	t.Parallel()
	edit := withEnvoy(t, envoyRulesText)
	n, err := New(Options{Config: testConfig(func(c *config.Config) {
		edit(c)
		c.EnvoyListen, c.EnvoyCertFile, c.EnvoyKeyFile = "127.0.0.1:0", "nowhere", "nowhere"
	})})
	if err == nil {
		t.Fatal(n.Close())
	}
}
