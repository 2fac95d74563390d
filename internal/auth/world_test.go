// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/secret"
)

const jwtSecret = "0123456789abcdef0123456789abcdef"

// world is an authority, its file and its clock.
type world struct {
	*Authority
	t        *testing.T
	path     string
	registry *prometheus.Registry
	now      time.Time
}

func newWorld(t *testing.T, text string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, path: filepath.Join(dir, "auth.yaml"), registry: prometheus.NewRegistry(), now: time.Now()}
	w.write(text)
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(jwtSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	w.Authority, err = New(Options{Path: w.path, Registry: w.registry, Now: func() time.Time { return w.now }, Debounce: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) write(text string) {
	w.t.Helper()
	next := w.path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(next, w.path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) reload(text string) {
	w.t.Helper()
	w.write(text)
	if err := w.Reload(); err != nil {
		w.t.Fatal(err)
	}
}

// from is the context of a gRPC call from an address.
func from(address string, state *tls.ConnectionState) context.Context {
	p := &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))}
	if state != nil {
		p.AuthInfo = grpccredentials.TLSInfo{State: *state}
	}
	return peer.NewContext(context.Background(), p)
}

const (
	somewhere = "192.0.2.1:1000"
	check     = "/bucketring.v1.RateLimiter/Check"
	hotKeys   = "/bucketring.v1.RateLimiter/HotKeys"
	exchange  = "/bucketring.v1.RateLimiter/Exchange"
)

func bearerOf(token string) metadata.MD {
	if token == "" {
		return nil
	}
	return metadata.Pairs("authorization", "Bearer "+token)
}

// call returns who calls a method, or why not.
func (w *world) call(ctx context.Context, method, token string) string {
	ctx = w.GRPC(ctx, method, bearerOf(token))
	if err := w.Check(ctx); err != nil {
		return fmt.Sprintf("%s: %s", grpcstatus.Code(err), grpcstatus.Convert(err).Message())
	}
	return From(ctx).Caller()
}

func (w *world) want(what, got, want string) {
	w.t.Helper()
	if !strings.HasPrefix(got, want) || want == "" && got != "" {
		w.t.Errorf("%s = %q, want %q", what, got, want)
	}
}

func hashOf(token string) string { return secret.Of(token).String() }

func callersText() string {
	return `callers:
- {name: gateway, scopes: [call], tokens: [` + hashOf("gate-1") + `, ` + hashOf("gate-2") + `]}
- {name: team, scopes: [call], roots: [acme, 'team-*'], tokens: [` + hashOf("team") + `]}
- {name: ops, scopes: [read, admin], tokens: [` + hashOf("ops") + `]}
- {name: prometheus, scopes: [metrics], tokens: [` + hashOf("prom") + `]}
- {name: envoy, scopes: [call], certificates: ['spiffe://x/envoy', envoy.example, 'cn:old-envoy']}
- {name: batch, scopes: [call], claims: {sub: [batch-1, batch-2], groups: writers}}
jwt: {secret_file: secret, issuer: 'https://issuer', audience: nodes}
`
}

// certificate returns the state of a connection with a verified client certificate.
func certificate(names ...string) *tls.ConnectionState {
	leaf := &x509.Certificate{Signature: []byte(strings.Join(names, ",") + "12345678"), NotAfter: time.Now().Add(time.Hour)}
	for _, name := range names {
		if common, ok := strings.CutPrefix(name, "cn:"); ok {
			leaf.Subject = pkix.Name{CommonName: common}
		} else if u, err := url.Parse(name); err == nil && u.Scheme != "" {
			leaf.URIs = append(leaf.URIs, u)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
}

// metric returns the value of a metric with a label, "" for none.
func (w *world) metric(name, label string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	w.t.Fatalf("there is no metric %s %s", name, label)
	return 0
}
