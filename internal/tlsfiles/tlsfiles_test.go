// SPDX-License-Identifier: Apache-2.0

package tlsfiles_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/certs"
	"github.com/bucketring/bucketring/internal/tlserror"
	"github.com/bucketring/bucketring/internal/tlsfiles"
	"github.com/bucketring/bucketring/internal/waittest"
)

// authority is a CA with a directory for what it issues.
type authority struct {
	*certs.Authority
	t   *testing.T
	dir string
}

func newCA(t *testing.T, name string) *authority {
	t.Helper()
	a, err := certs.New(name, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return &authority{a, t, t.TempDir()}
}

// member issues a certificate with a DNS name.
func (a *authority) member(name string) certs.Pair {
	return a.issue(certs.Request{Name: name, DNS: []string{name}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
}

func (a *authority) issue(r certs.Request) certs.Pair {
	a.t.Helper()
	r.NotBefore = time.Now()
	if r.Expires.IsZero() {
		r.Expires = time.Now().Add(time.Hour)
	}
	p, err := a.Issue(r)
	if err != nil {
		a.t.Fatal(err)
	}
	return p
}

// files writes a pair and CA certificates to a directory.
func files(t *testing.T, dir string, p certs.Pair, ca ...[]byte) tlsfiles.Files {
	t.Helper()
	f := tlsfiles.Files{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	replace(t, f.Cert, p.Cert)
	replace(t, f.Key, p.Key)
	replace(t, f.CA, bytes.Join(ca, nil))
	return f
}

// replace replaces a file as administrators and Kubernetes do, by renaming. Its time is in
// the past, so that a problem with it is one at once.
func replace(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(path+".new", past, past); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

var settings = tlsfiles.Files{Cert: "tls_cert_file", Key: "tls_key_file", CA: "tls_ca_file"}

func open(t *testing.T, f tlsfiles.Files) *tlsfiles.Store {
	t.Helper()
	s, err := tlsfiles.Open(tlsfiles.Options{Files: f, Settings: settings, Name: "node", Own: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBadFiles checks that files that cannot be used are refused at the start, with the
// setting, the file and what to do.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t, "a"), newCA(t, "b")
	good := ca.member("n1")
	for name, tt := range map[string]struct {
		pair certs.Pair
		ca   []byte
		edit func(*tlsfiles.Files)
		want []string
	}{
		"no file":       {good, ca.Cert, func(f *tlsfiles.Files) { f.Cert = "absent.crt" }, []string{"tls_cert_file", "absent.crt", "bucketring certs"}},
		"a directory":   {good, ca.Cert, func(f *tlsfiles.Files) { f.CA = "." }, []string{"tls_ca_file", "must be a file"}},
		"another key":   {certs.Pair{Cert: good.Cert, Key: ca.member("n1").Key}, ca.Cert, nil, []string{"tls_key_file", "not a certificate and its key"}},
		"no PEM":        {certs.Pair{Cert: []byte("x"), Key: good.Key}, ca.Cert, nil, []string{"tls_cert_file", "not a certificate and its key"}},
		"no CA":         {good, []byte("x"), nil, []string{"tls_ca_file", "no certificate in PEM form"}},
		"a key as CA":   {good, ca.Key, nil, []string{"tls_ca_file", `"PRIVATE KEY"`}},
		"another CA":    {good, other.Cert, nil, []string{"tls_ca_file", "do not verify", "add its CA"}},
		"expired":       {ca.issue(certs.Request{Name: "n1", DNS: []string{"n1"}, Expires: time.Now().Add(-time.Second)}), ca.Cert, nil, []string{"tls_cert_file", "has expired", "issue a new one"}},
		"another name":  {ca.member("n2"), ca.Cert, nil, []string{"tls_cert_file", "is for n2", "must be for n1"}},
		"wildcard name": {ca.member("*"), ca.Cert, nil, []string{"must be for n1"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := files(t, t.TempDir(), tt.pair, tt.ca)
			if tt.edit != nil {
				tt.edit(&f)
			}
			_, err := tlsfiles.Open(tlsfiles.Options{
				Files: f, Settings: settings, Own: true,
				Check: func(leaf *x509.Certificate) error { return tlsfiles.Pattern("{name}").Check(leaf, "n1") },
			})
			if err == nil {
				t.Fatal("Open() = nil, want an error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "a")
	uri, err := url.Parse("spiffe://example.org/bucketring/n1")
	if err != nil {
		t.Fatal(err)
	}
	pair := ca.issue(certs.Request{DNS: []string{"n1", "n1.nodes.example", "*.wild.example"}, URIs: []*url.URL{uri}})
	c, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pattern, name  string
		is, any, valid bool
	}{
		{"{name}", "n1", true, true, true},
		{"{name}", "N1", false, true, true},
		{"{name}", "n2", false, true, true},
		{"{name}.nodes.example", "n1", true, true, true},
		{"{name}.wild.example", "n1", false, false, true},
		{"spiffe://example.org/bucketring/{name}", "n1", true, true, true},
		{"spiffe://example.org/bucketring/{name}", "n", false, true, true},
		{"spiffe://example.com/bucketring/{name}", "n1", false, false, true},
		{"n1", "n1", true, false, false},
		{"{name}{name}", "n1", false, false, false},
		{"*.{name}", "n1", false, false, false},
	} {
		p := tlsfiles.Pattern(tt.pattern)
		if got := p.Check(c.Leaf, tt.name) == nil; got != tt.is {
			t.Errorf("%s: Check(%s) = %v, want %v", p, tt.name, got, tt.is)
		}
		if got := p.Validate() == nil; got != tt.valid {
			t.Errorf("%s: Validate() = %v, want %v", p, got, tt.valid)
		}
		if got := p.IsMember(c.Leaf); tt.valid && got != tt.any {
			t.Errorf("%s: IsMember() = %v, want %v", p, got, tt.any)
		}
	}
}

// server is an HTTP server with a listener of a store. It counts its connections.
type server struct {
	*http.Server
	address string
	metrics *prometheus.Registry
	log     *bytes.Buffer
}

func serve(t *testing.T, s *tlsfiles.Store, o tlsfiles.ServerOptions) *server {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &server{address: inner.Addr().String(), metrics: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	o.Name, o.Metrics, o.Logger = "http", tlsfiles.NewMetrics(r.metrics), slog.New(slog.NewTextHandler(r.log, nil))
	l := s.Listener(inner, o)
	r.Server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "plaintext"
		if r.TLS != nil {
			who = "nobody"
			if len(r.TLS.VerifiedChains) > 0 {
				who = r.TLS.PeerCertificates[0].Subject.CommonName
			}
		}
		_, _ = fmt.Fprint(w, who)
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.Serve(l) }()
	t.Cleanup(func() { _ = r.Close(); <-ended })
	return r
}

// get asks a server, on a new connection.
func (r *server) get(url string, c *tls.Config) (string, error) {
	transport := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: waittest.Limit}).Get(url + r.address)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// valueOf returns the value of the series of a metric that has a label with a value.
func valueOf(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if family.GetName() == name && l.GetValue() == label {
					return m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
	}
	t.Fatalf("there is no %s with %s", name, label)
	return 0
}

// TestRefusals asks with every kind of wrong certificate.
func TestRefusals(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t, "a"), newCA(t, "b")
	s := open(t, files(t, t.TempDir(), ca.member("n1"), ca.Cert))
	caller := open(t, files(t, t.TempDir(), ca.issue(certs.Request{Name: "alice", Client: true, URIs: []*url.URL{certs.ClientURI("alice")}}), ca.Cert))
	stranger := open(t, files(t, t.TempDir(), other.member("n1"), ca.Cert, other.Cert))
	for _, tt := range []struct {
		name   string
		auth   tls.ClientAuthType
		url    string
		config func() *tls.Config
		want   string // answer or part of the error
		remedy string
	}{
		{"verified", tls.RequireAndVerifyClientCert, "https://", func() *tls.Config { return caller.Client("") }, "alice", ""},
		{"without", tls.VerifyClientCertIfGiven, "https://", func() *tls.Config { c := caller.Client(""); c.GetClientCertificate = nil; return c }, "nobody", ""},
		{"by name", tls.NoClientCert, "https://", func() *tls.Config { return caller.Client("n1") }, "nobody", ""},
		{"no certificate", tls.RequireAndVerifyClientCert, "https://", func() *tls.Config { c := caller.Client(""); c.GetClientCertificate = nil; return c }, "certificate required", "give one"},
		{"a certificate of a stranger", tls.VerifyClientCertIfGiven, "https://", func() *tls.Config { return stranger.Client("") }, "unknown certificate authority", "add the CA"},
		{"a server of a stranger", tls.NoClientCert, "https://", func() *tls.Config { return &tls.Config{RootCAs: x509.NewCertPool()} }, "unknown authority", "CA file"},
		{"another name", tls.NoClientCert, "https://", func() *tls.Config { return caller.Client("n2") }, "not n2", "name"},
		{"plaintext", tls.NoClientCert, "http://", func() *tls.Config { return nil }, "this address needs TLS: use https://", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := serve(t, s, tlsfiles.ServerOptions{ClientAuth: tt.auth})
			got, err := r.get(tt.url, tt.config())
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
			if hint := tlserror.Remedy(err); !strings.Contains(hint, tt.remedy) || tt.remedy != "" && hint == "" {
				t.Errorf("Remedy(%v) = %q, want %q in it", err, hint, tt.remedy)
			}
		})
	}
}

// TestOptional checks that plaintext and TLS are served at one address, and that silent
// connections and garbage delay nobody and are closed.
func TestOptional(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "a")
	s := open(t, files(t, t.TempDir(), ca.member("n1"), ca.Cert))
	r := serve(t, s, tlsfiles.ServerOptions{Optional: true})
	for range 50 {
		silent, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		garbage, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer garbage.Close()
		if _, err := garbage.Write([]byte{0x16, 3, 1, 0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.get("http://", nil); got != "plaintext" {
		t.Errorf("plaintext = %q, %v", got, err)
	}
	if got, err := r.get("https://", s.Client("n1")); got != "nobody" {
		t.Errorf("TLS = %q, %v", got, err)
	}
	for result, want := range map[string]float64{"tls": 1, "plaintext": 1, "refused": 50, "silent": 0, "no_tls": 0} {
		waittest.Until(t, fmt.Sprintf("%v connections with result %s", want, result), func() bool {
			return valueOf(t, r.metrics, "bucketring_tls_handshakes_total", result) == want
		})
	}
	if err := r.Shutdown(context.Background()); err != nil { // also closes the silent ones
		t.Error(err)
	}
}

// TestReplaced replaces certificates and CAs: new connections use them, a connection that
// exists is kept, and files that cannot be used change nothing.
func TestReplaced(t *testing.T) {
	t.Parallel()
	old, next := newCA(t, "old"), newCA(t, "next")
	dir := t.TempDir()
	log := &bytes.Buffer{}
	f := files(t, dir, old.member("n1"), old.Cert)
	s, err := tlsfiles.Open(tlsfiles.Options{Files: f, Settings: settings, Name: "node", Own: true, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, s, tlsfiles.ServerOptions{ClientAuth: tls.RequireAndVerifyClientCert})
	oldCaller := open(t, files(t, t.TempDir(), old.issue(certs.Request{Name: "old", Client: true}), old.Cert, next.Cert))
	nextCaller := open(t, files(t, t.TempDir(), next.issue(certs.Request{Name: "next", Client: true}), old.Cert, next.Cert))
	kept := &http.Client{Transport: &http.Transport{TLSClientConfig: oldCaller.Client("")}}
	ask := func() {
		t.Helper()
		resp, err := kept.Get("https://" + r.address)
		if err != nil {
			t.Fatalf("the connection that exists: %v", err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	expect := func(what string, c *tlsfiles.Store, ok bool) {
		t.Helper()
		if _, err := r.get("https://", c.Client("")); (err == nil) != ok {
			t.Errorf("%s: %v, want success %v", what, err, ok)
		}
	}
	ask()
	expect("old", oldCaller, true)
	expect("next, before", nextCaller, false)

	replace(t, f.CA, bytes.Join([][]byte{old.Cert, next.Cert}, nil))
	expect("old, with both CAs", oldCaller, true)
	expect("next, with both CAs", nextCaller, true)

	pair := next.member("n1")
	replace(t, f.Cert, pair.Cert) // the key is another still
	expect("next, with another key", nextCaller, true)
	expect("next, with another key", nextCaller, true)
	if problem := s.Status().Problem; !strings.Contains(problem, "not a certificate and its key") {
		t.Errorf("Problem = %q, want that the key is another", problem)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, log)
	}
	metric := func(want float64) {
		t.Helper()
		reg := prometheus.NewRegistry()
		reg.MustRegister(tlsfiles.NewCollector(s))
		if got := valueOf(t, reg, "bucketring_tls_last_reload_successful", "node"); got != want {
			t.Errorf("last_reload_successful is %v, want %v", got, want)
		}
	}
	metric(0)
	replace(t, f.Key, pair.Key)
	expect("next, with the new certificate", nextCaller, true)
	metric(1)
	if status := s.Status(); status.Problem != "" || !strings.Contains(status.Issuer, "next") || len(status.CAs) != 2 {
		t.Errorf("Status() = %+v, want the new certificate and no problem", status)
	}
	replace(t, f.CA, next.Cert)
	expect("old, after", oldCaller, false)
	expect("next, after", nextCaller, true)
	ask() // has never been closed
}

// TestWrittenOneAfterTheOther: a certificate is written, and its key a moment later. That
// is no problem.
func TestWrittenOneAfterTheOther(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "a")
	f := files(t, t.TempDir(), ca.member("n1"), ca.Cert)
	s := open(t, f)
	pair := ca.member("n1")
	if err := os.WriteFile(f.Cert, pair.Cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if problem := s.Status().Problem; problem != "" {
		t.Errorf("a moment after the certificate was written: %s", problem)
	}
	if err := os.WriteFile(f.Key, pair.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	leaf, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	if s.Status(); !s.Status().Expires.Equal(leaf.Leaf.NotAfter) {
		t.Error("the new certificate is not in use")
	}
}
