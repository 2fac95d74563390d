// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/certs"
	"github.com/bucketring/bucketring/internal/waittest"
)

// receiver is a collector that counts spans, by both protocols.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	spans atomic.Int64
}

// Export implements collector.TraceServiceServer.
func (c *receiver) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans.Add(int64(len(scope.GetSpans())))
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// ServeHTTP implements http.Handler.
func (c *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request := &collector.ExportTraceServiceRequest{}
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, request) != nil {
		http.Error(w, r.URL.Path, http.StatusBadRequest)
		return
	}
	_, _ = c.Export(r.Context(), request)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// listen returns the host and port of the collector. A nil configuration means no TLS.
func (c *receiver) listen(t *testing.T, protocol string, config *tls.Config) string {
	t.Helper()
	if protocol == "http" {
		s := httptest.NewUnstartedServer(c)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		if s.TLS = config; config != nil {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var o []grpc.ServerOption
	if config != nil {
		o = append(o, grpc.Creds(credentials.NewTLS(config)))
	}
	s := grpc.NewServer(o...)
	collector.RegisterTraceServiceServer(s, c)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// authority makes an authority, and returns it with the path of its certificate.
func authority(t *testing.T, dir, name string) (a *certs.Authority, path string) {
	t.Helper()
	now := time.Now()
	a, err := certs.New(name, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	path, _, err = a.Write(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return a, path
}

// issue makes a certificate for 127.0.0.1.
func issue(t *testing.T, a *certs.Authority, name string, client bool) certs.Pair {
	t.Helper()
	pair, err := a.Issue(certs.Request{Name: name, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Client: client, NotBefore: time.Now(), Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// send sends one span to an endpoint and returns the log, and the spans that were taken.
func send(t *testing.T, endpoint string) (text string, sent float64) {
	t.Helper()
	var logged bytes.Buffer
	reg := prometheus.NewRegistry()
	tracer, err := New(Options{Endpoint: endpoint, Sample: 1, Service: "s", Registry: reg, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.Begin(t.Context(), "call", trace.SpanKindServer)
	span.End()
	if err := tracer.Close(waittest.Context(t, waittest.Limit)); err != nil {
		t.Error(err)
	}
	counts := counted(t, reg, "bucketring_trace_spans_sent_total")
	dropped := counted(t, reg, "bucketring_trace_spans_dropped_total")["export_failed"]
	if counts[""]+dropped != 1 {
		t.Errorf("%v spans sent and %v dropped, want 1 in all", counts[""], dropped)
	}
	return logged.String(), counts[""]
}

// TestTLS: spans reach a collector with TLS. With another CA, without the client certificate
// that it requires, and with plaintext, none does, and the log says what to do.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca, caFile := authority(t, dir, "ca")
	_, otherFile := authority(t, dir, "other")
	pair := issue(t, ca, "collector", false)
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	clientCert, clientKey, err := issue(t, ca, "client", true).Write(dir, "client")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.Cert)
	const caName, certName, keyName = "OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_KEY"
	server := &tls.Config{Certificates: []tls.Certificate{cert}}
	mutual := &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	for name, tt := range map[string]struct {
		server  *tls.Config
		secure  bool // the scheme
		env     map[string]string
		problem string // in the log; "": the span arrives
	}{
		"CA":                    {server, true, map[string]string{caName: caFile}, ""},
		"another CA":            {server, true, map[string]string{caName: otherFile}, "set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of the CA"},
		"CA of the system":      {server, true, nil, "set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of the CA"},
		"client certificate":    {mutual, true, map[string]string{caName: caFile, certName: clientCert, keyName: clientKey}, ""},
		"no client certificate": {mutual, true, map[string]string{caName: caFile}, "spans cannot be sent"},
		"plaintext collector":   {nil, true, map[string]string{caName: caFile}, "the collector does not use TLS"},
		"plaintext":             {nil, false, nil, ""},
		"plaintext to TLS":      {server, false, nil, "spans cannot be sent"},
		// The scheme of --otlp decides.
		"INSECURE":                      {server, true, map[string]string{caName: caFile, "OTEL_EXPORTER_OTLP_INSECURE": "true"}, ""},
		"INSECURE, CA of the system":    {nil, true, map[string]string{"OTEL_EXPORTER_OTLP_INSECURE": "true"}, "the collector does not use TLS"},
		"plaintext ENDPOINT":            {nil, true, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1/else"}, "the collector does not use TLS"},
		"plaintext with a CA":           {nil, false, map[string]string{caName: caFile}, ""},
		"plaintext, ENDPOINT with path": {nil, false, map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://127.0.0.1:1/else"}, ""},
	} {
		for _, protocol := range []string{"grpc", "http"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				for name, value := range tt.env {
					t.Setenv(name, value)
				}
				c := &receiver{}
				scheme := protocol
				if tt.secure {
					scheme += "s"
				}
				endpoint := scheme + "://" + c.listen(t, protocol, tt.server)
				text, sent := send(t, endpoint)
				if tt.problem == "" {
					if sent != 1 || c.spans.Load() != 1 {
						t.Errorf("%v spans sent, %d received, want 1; the log:\n%s", sent, c.spans.Load(), text)
					}
					return
				}
				if sent != 0 || c.spans.Load() != 0 || !strings.Contains(text, tt.problem) || !strings.Contains(text, "otlp="+endpoint) {
					t.Errorf("%v spans sent, %d received, want 0, and a log with otlp=%s and %q; the log:\n%s", sent, c.spans.Load(), endpoint, tt.problem, text)
				}
			})
		}
	}
}

// TestUnusableFiles: files that cannot be used for TLS are an error at the start, with the
// variable and the path.
func TestUnusableFiles(t *testing.T) {
	dir := t.TempDir()
	empty, absent := filepath.Join(dir, "empty"), filepath.Join(dir, "absent")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": absent}, "otlp: OTEL_EXPORTER_OTLP_CERTIFICATE: open " + absent},
		{map[string]string{"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": empty}, "otlp: OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE: " + empty + " has no certificate"},
		{map[string]string{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": absent}, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY must both be set"},
		{map[string]string{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": absent, "OTEL_EXPORTER_OTLP_CLIENT_KEY": empty}, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE " + absent},
	} {
		t.Run(tt.want, func(t *testing.T) {
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			for _, scheme := range []string{"grpcs", "https"} {
				tracer, err := New(Options{Endpoint: scheme + "://127.0.0.1:1", Registry: prometheus.NewRegistry()})
				if err == nil {
					_ = tracer.Close(t.Context())
				}
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("New(%s) = %v, want an error with %q", scheme, err, tt.want)
				}
			}
		})
	}
}
