// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
)

// askEnvoy asks the service at an address.
func askEnvoy(t *testing.T, address string, o grpc.DialOption) (*rls.RateLimitResponse, *grpc.ClientConn, error) {
	t.Helper()
	conn, err := grpc.NewClient(address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r, err := rls.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", Descriptors: descriptors{of("user", "a")}})
	return r, conn, err
}

// TestEnvoyAtAUnixSocket starts nodes at the path of a socket: a new one, that of a
// process that crashed, that of a process that runs, and that of a file.
func TestEnvoyAtAUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "rls") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	rules := withEnvoy(t, envoyRulesText)
	r := startWith(t, func(c *config.Config) {
		rules(c)
		c.EnvoyListen = "unix:" + path
	}, nil)
	if got, want := r.EnvoyAddr(), "unix:"+path; got != want {
		t.Errorf("EnvoyAddr = %s, want %s", got, want)
	}
	got, _, err := askEnvoy(t, r.EnvoyAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil || codesOf(got) != "OK: OK" {
		t.Errorf("ShouldRateLimit at a socket = %v, %v, want OK", got, err)
	}
	if err := removeStaleSocket(path); err == nil || !strings.Contains(err.Error(), "is the socket of a running process") {
		t.Errorf("a second node = %v, want that the socket is in use", err)
	}
	_ = r.ended()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after the shutdown the socket is there: %v", err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removeStaleSocket(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("at a file = %v, want that it is not a socket", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		t.Errorf("the file has %q, %v, want it untouched", text, err)
	}
}

// TestEnvoyClientSAN checks that a certificate of the right authority needs the right name.
func TestEnvoyClientSAN(t *testing.T) {
	t.Parallel()
	id := newIdentity(t)
	rules := withEnvoy(t, envoyRulesText)
	for san, want := range map[string]codes.Code{
		"": codes.OK, "envoy.example": codes.OK, "spiffe://test/envoy": codes.OK,
		"example": codes.Unavailable, "other.example": codes.Unavailable, "spiffe://test/envo": codes.Unavailable, "spiffe://test/envoy/x": codes.Unavailable,
	} {
		r := startWith(t, func(c *config.Config) {
			rules(c)
			c.EnvoyListen, c.EnvoyClientSAN = "127.0.0.1:0", san
			c.EnvoyCertFile, c.EnvoyKeyFile, c.EnvoyCAFile = id.cert, id.key, id.ca
		}, nil)
		if _, _, err := askEnvoy(t, r.EnvoyAddr(), grpc.WithTransportCredentials(credentials.NewTLS(id.tls(t)))); grpcstatus.Code(err) != want {
			t.Errorf("with envoy_client_san %q: %v, want %v", san, err, want)
		}
		_ = r.ended()
	}
}

// TestEnvoyConnectionAge checks that the setting ends connections to envoy_listen.
func TestEnvoyConnectionAge(t *testing.T) {
	t.Parallel()
	rules := withEnvoy(t, envoyRulesText)
	r := startWith(t, func(c *config.Config) {
		rules(c)
		c.EnvoyListen, c.EnvoyConnectionAge, c.EnvoyConnectionGrace = "127.0.0.1:0", time.Second, time.Second
	}, nil)
	_, conn, err := askEnvoy(t, r.EnvoyAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	waittest.Until(t, "the connection is ended", func() bool { return conn.GetState() != connectivity.Ready })
}
