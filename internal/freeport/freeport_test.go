// SPDX-License-Identifier: Apache-2.0

package freeport

import (
	"net"
	"sync"
	"testing"
)

func TestPick(t *testing.T) {
	seen := make(map[int]bool)
	for range 50 {
		p, err := Pick(1, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range []int{p, p + 1, p + 10} {
			if seen[port] {
				t.Errorf("port %d was returned twice", port)
			}
			seen[port] = true
			if port < first || port >= last+10 {
				t.Errorf("port %d, want one from %d to %d", port, first, last)
			}
			l, err := net.Listen("tcp", Address(port))
			if err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
		}
	}
}

func TestPickConcurrently(t *testing.T) {
	var picked sync.Map
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			p, err := Pick()
			if _, twice := picked.LoadOrStore(p, true); twice || err != nil {
				t.Errorf("Pick = %d, %v, want a port of its own", p, err)
			}
		})
	}
	wg.Wait()
}

func TestUsedPortIsNotTaken(t *testing.T) {
	p, err := Pick()
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "udp"} {
		var release func() error
		if network == "tcp" {
			l, err := net.Listen(network, Address(p))
			if err != nil {
				t.Fatal(err)
			}
			release = l.Close
		} else {
			l, err := net.ListenPacket(network, Address(p))
			if err != nil {
				t.Fatal(err)
			}
			release = l.Close
		}
		if isFree(p) {
			t.Errorf("port %d is taken for %s and counts as free", p, network)
		}
		_ = release()
	}
	if !isFree(p) {
		t.Errorf("port %d is free and does not count as free", p)
	}
}
