// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/waittest"
)

// TestFloodOfStrangers opens many connections from an address of no member, without the
// key, and sends as much as each takes. Few are accepted at a time, each is read up to
// its bound, and a member joins meanwhile.
func TestFloodOfStrangers(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs 127.0.0.2")
	}
	registry := prometheus.NewRegistry()
	a, _ := onLoopback(t, "a", 1, nil, registry)
	v := awaitView(t, a, serving("a"))
	m, _ := v.Member("a")
	address := m.Gossip.String()

	const encrypted, label = 10, DefaultLabel // as memberlist's encryptMsg
	message := append([]byte{244, byte(len(label))}, label...)
	message = append(message, encrypted)
	message = binary.BigEndian.AppendUint32(message, 20<<20)
	message = append(message, make([]byte, 2*maxStreamBytes)...)

	ctx, cancel := context.WithCancel(t.Context())
	var flooders sync.WaitGroup
	defer flooders.Wait()
	defer cancel()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 3 * maxStreamsPerAddress {
		flooders.Go(func() {
			for ctx.Err() == nil {
				c, err := dialer.DialContext(ctx, "tcp", address)
				if err != nil {
					continue
				}
				_ = c.SetDeadline(time.Now().Add(streamTimeout))
				_, _ = c.Write(message) // ends when the node closes
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		})
	}
	value := func(name string, labels ...string) float64 { return metric(t, registry, name, labels...) }
	waittest.Until(t, "connections are refused, and others are cut off", func() bool {
		if open := value("bucketring_connections", "gossip"); open > maxStreamsPerAddress {
			t.Errorf("%v connections of one address are open, want at most %d", open, maxStreamsPerAddress)
		}
		return value("bucketring_connections_refused_total", "address", "gossip") > 0 && value("bucketring_gossip_too_large_total") > 0
	})
	b, _ := onLoopback(t, "b", 2, []string{address}, nil)
	for _, n := range []*Cluster{a, b} {
		awaitView(t, n, serving("a", "b"))
	}
}

// metric returns the value of a gauge or counter with label values, in their order, or 0
// if there is none.
func metric(t *testing.T, registry *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if slices.Sort(got); f.GetName() == name && slices.Equal(got, labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// TestStreamIsCutOff reads as much as a connection may send, and no more.
func TestStreamIsCutOff(t *testing.T) {
	registry := prometheus.NewRegistry()
	inner, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	transport := newLimitedTransport(inner, listenlimit.Options{}, newMetrics(registry, func() int { return 0 }, func() float64 { return 0 }).tooLarge)
	near, far := net.Pipe()
	defer near.Close()
	go func() { _, _ = near.Write(make([]byte, maxStreamBytes+1)) }()
	n, err := io.Copy(io.Discard, transport.limit(far))
	if n != maxStreamBytes || !errors.Is(err, errStreamTooLarge) {
		t.Errorf("read %d bytes, %v, want %d and %v", n, err, maxStreamBytes, errStreamTooLarge)
	}
	// A connection that nobody takes does not keep it from ending.
	c, err := net.Dial("tcp", streamListener{transport}.Addr().(*net.TCPAddr).AddrPort().String())
	if err == nil {
		defer c.Close()
	}
	if err := transport.Shutdown(); err != nil {
		t.Error(err)
	}
}
