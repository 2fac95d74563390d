// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/listenlimit"
)

// These tests use real sockets, so they take real time.

// onLoopback runs a node on a free port until the test ends.
func onLoopback(t *testing.T, name string, boot ID, seeds []string, reg prometheus.Registerer) (*Cluster, chan error) {
	t.Helper()
	o := validOptions()
	o.Name, o.Boot.ID, o.Boot.Started = name, boot, time.Now()
	o.Seeds, o.Keys, o.Registry = seeds, [][]byte{key(1)}, reg
	o.Connections = listenlimit.NewMetrics(reg)
	var logged syncBuffer
	o.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, &logged)
		}
	})
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-c.done })
	if err := c.SetState(Serving); err != nil {
		t.Fatal(err)
	}
	return c, ran
}

// awaitView waits for a view for which ok returns true.
func awaitView(t *testing.T, c *Cluster, ok func(*View) bool) *View {
	t.Helper()
	views, cancel := c.Subscribe()
	defer cancel()
	deadline := time.After(45 * time.Second) // an update may get lost until the exchange of state, every 15 s
	for {
		select {
		case v, open := <-views:
			if !open {
				t.Fatal("Run ended")
			}
			if ok(v) {
				return v
			}
		case <-deadline:
			t.Fatalf("%s: view after 45 s = %+v", c.options.Name, c.View())
		}
	}
}

func serving(names ...string) func(*View) bool {
	return func(v *View) bool { return slices.Equal(v.Serving(), names) }
}

func TestThreeNodesOnOneAddress(t *testing.T) {
	registry := prometheus.NewRegistry()
	a, _ := onLoopback(t, "a", 1, nil, registry)
	v := awaitView(t, a, serving("a"))
	m, _ := v.Member("a")
	if m.Gossip.Addr() != netip.MustParseAddr("127.0.0.1") || m.Gossip.Port() == 0 {
		t.Errorf("gossip address = %s, want a port on 127.0.0.1", m.Gossip)
	}
	seeds := []string{m.Gossip.String()}
	b, ran := onLoopback(t, "b", 2, seeds, nil)
	c, _ := onLoopback(t, "c", 3, seeds, nil)
	for _, n := range []*Cluster{a, b, c} {
		awaitView(t, n, serving("a", "b", "c"))
	}
	if err := b.Leave(t.Context()); err != nil {
		t.Fatalf("Leave: %v", err)
	}
	if err := <-ran; err != nil {
		t.Errorf("Run after Leave = %v, want nil", err)
	}
	for _, n := range []*Cluster{a, c} {
		v := awaitView(t, n, serving("a", "c"))
		if len(v.Departed) != 1 || v.Departed[0].Fate != Left {
			t.Errorf("%s: departed = %v, want that b left", n.options.Name, v.Departed)
		}
	}
	if got := gauge(t, registry, "bucketring_cluster_members", "serving"); got != 2 {
		t.Errorf("serving members = %v, want 2", got)
	}
	if got, want := gauge(t, registry, "bucketring_cluster_view", ""), float64(a.View().Number); got != want {
		t.Errorf("view = %v, want %v", got, want)
	}
}

// gauge returns the value of a metric with a label value, or without labels.
func gauge(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %s", name, label)
	return 0
}

func TestRunNeedsItsPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := validOptions()
	o.Bind = netip.MustParseAddrPort(l.Addr().String())
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	var op *net.OpError
	if err := c.Run(t.Context()); err == nil || !errors.As(err, &op) && err.Error() == "" {
		t.Errorf("Run on a used port = %v, want an error", err)
	}
	if err := c.Run(t.Context()); err == nil {
		t.Error("second Run = nil, want an error")
	}
	if err := c.Leave(t.Context()); err == nil {
		t.Error("Leave without Run = nil, want an error")
	}
}

func TestSeedsAreResolvedEachTime(t *testing.T) {
	calls := 0
	simulate(t, func(t *testing.T, s *sim) {
		a := s.boot("a", 8, func(o *Options) { o.Seeds = nil })
		b := s.boot("b", 9, func(o *Options) {
			o.Seeds = []string{"seed.example"}
			o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
				if calls++; calls < 4 {
					return nil, fmt.Errorf("no such host")
				}
				return []netip.Addr{a.addr.Addr(), host(9).Addr()}, nil
			}
		})
		time.Sleep(500 * time.Millisecond)
		select {
		case <-b.Joined():
			t.Error("Joined() is closed, want open while no seed is known")
		default:
		}
		s.await(10*time.Second, s.nodes, "a", "b")
		if before := calls; before < 4 {
			t.Errorf("%d look-ups, want at least 4", before)
		}
		<-b.Joined()
	})
}
