// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

func TestConnectionLimit(t *testing.T) {
	for _, tt := range []struct{ most, listeners, descriptors, want, perAddress int }{
		{4096, 2, 1 << 20, 4096, 1024},
		{4096, 2, 1024, 384, 96}, // a quarter is kept
		{4096, 2, 256, 64, 16},   // 128 are kept
		{4096, 4, 100, 12, 12},   // half of them
		{4096, 2, 1, 1, 1},
		{8, 2, 1 << 20, 8, 8},
	} {
		l := newConnectionLimit(tt.most, tt.listeners, tt.descriptors, nil, slog.New(slog.DiscardHandler))
		if l.max != tt.want || l.perAddress() != tt.perAddress {
			t.Errorf("limit of %d with %d listeners and %d files = %d, %d for an address, want %d, %d",
				tt.most, tt.listeners, tt.descriptors, l.max, l.perAddress(), tt.want, tt.perAddress)
		}
	}
}

// TestIdleConnectionsGiveWay opens more idle connections than a node takes, and holds
// them: HTTP, gRPC and a reload of the policy work all the same.
func TestIdleConnectionsGiveWay(t *testing.T) {
	const most = 8
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(amount int) {
		t.Helper()
		text := fmt.Sprintf("tiers:\n  free: { requests: %d/min }\ndefault_tier: free\n", amount)
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(10)
	n := start(t, func(c *config.Config) { c.MaxConnections, c.Policy = most, policy })
	for _, address := range []string{n.HTTPAddr(), n.GRPCAddr()} {
		for range 3 * most {
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func() string {
		answer, err := client.Get("http://" + n.HTTPAddr() + "/metrics")
		if err != nil {
			return ""
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			return ""
		}
		return string(text)
	}
	var metrics string
	waittest.Until(t, "HTTP answers", func() bool { metrics = get(); return metrics != "" })
	for _, want := range []string{
		`bucketring_connections_limit{listener="http"} 8`, `bucketring_connections_limit{listener="grpc"} 8`,
		`bucketring_connections_limit{listener="gossip"} 64`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics have no %s", want)
		}
	}
	for _, zero := range []string{`bucketring_connections_evicted_total{listener="http"} 0`, `bucketring_connections_refused_total{limit="address",listener="http"} 0`} {
		if strings.Contains(metrics, zero) {
			t.Errorf("metrics have %s, want more", zero)
		}
	}
	conn, err := grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check := func() (*pb.Decision, error) {
		return pb.NewRateLimiterClient(conn).Check(waittest.Context(t, waittest.Limit), &pb.CheckRequest{Key: "acme"}, grpc.WaitForReady(true))
	}
	if d, err := check(); err != nil || d.GetLimits()[0].GetLimit() != 10 {
		t.Fatalf("Check() with idle connections = %v, %v, want a limit of 10", d, err)
	}
	write(20)
	waittest.Until(t, "the policy is reloaded", func() bool {
		d, err := check()
		return err == nil && d.GetLimits()[0].GetLimit() == 20
	})
}

// TestNoDebug: nothing of the process can be seen or stopped over the network. Profiles are
// for callers on the machine of the node only, at its HTTP address.
func TestNoDebug(t *testing.T) {
	n := start(t, func(c *config.Config) {
		c.EnvoyConfig, c.EnvoyHTTP = t.TempDir(), "127.0.0.1:0"
		c.HTTP, c.Insecure = "0.0.0.0:0", true
		if err := os.WriteFile(filepath.Join(c.EnvoyConfig, "rules.yaml"), []byte("domain: x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	for _, address := range []string{n.HTTPAddr(), n.EnvoyHTTPAddr()} {
		for _, path := range []string{"/debug", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/debug/requests", "/debug/events"} {
			answer, err := http.Get("http://" + address + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
			want := http.StatusNotFound
			if strings.HasPrefix(path, "/debug/pprof/") && address == n.HTTPAddr() {
				want = http.StatusOK // the test is on the machine of the node
			}
			if answer.StatusCode != want {
				t.Errorf("GET %s%s = %s, want %d", address, path, answer.Status, want)
			}
		}
	}
	_, port, err := net.SplitHostPort(n.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		ip, ok := a.(*net.IPNet)
		if !ok || !ip.IP.IsGlobalUnicast() || ip.IP.To4() == nil {
			continue
		}
		// To this address of the machine, a connection comes from it, too.
		answer, err := http.Get("http://" + net.JoinHostPort(ip.IP.String(), port) + "/debug/pprof/heap")
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusForbidden {
			t.Errorf("GET /debug/pprof/heap from %s = %s, want 403", ip.IP, answer.Status)
		}
	}
	conn, err := grpc.NewClient(n.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	if err := conn.Invoke(ctx, "/grpc.channelz.v1.Channelz/GetServers", &pb.PeekRequest{}, &pb.PeekRequest{}); err == nil || !strings.Contains(err.Error(), "unknown method") {
		t.Errorf("channelz = %v, want an unknown method", err)
	}
}

// TestMemoryLimitIsLogged: a node says what GOMEMLIMIT it found.
func TestMemoryLimitIsLogged(t *testing.T) {
	before := debug.SetMemoryLimit(4 << 40)
	defer debug.SetMemoryLimit(before)
	var buf log
	newConnectionLimit(1, 1, 1, nil, slog.New(slog.NewTextHandler(&buf, nil)))
	if want := "memory_limit=4398046511104"; !strings.Contains(buf.String(), want) {
		t.Errorf("log = %s, want %s", &buf, want)
	}
	debug.SetMemoryLimit(1<<63 - 1)
	if got := memoryLimit(); got != "none" {
		t.Errorf("without a limit = %s, want none", got)
	}
}
