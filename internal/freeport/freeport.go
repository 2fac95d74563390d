// SPDX-License-Identifier: Apache-2.0

// Package freeport finds free ports on loopback for processes that must be told
// theirs, as members must that others find again after a restart.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are below the ephemeral ranges of common systems, so that an outgoing
// connection cannot take one between the choice and its use, or while the process
// that has it is down.
const (
	first = 20_000
	last  = 32_000
)

var (
	mu    sync.Mutex
	given = make(map[int]bool)
)

// Pick returns a port p for which p and every p+offset were just free, for TCP and
// UDP. No two calls in a process return the same port. It is safe for concurrent use.
func Pick(offsets ...int) (p int, err error) {
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		p = first + rand.IntN(last-first)
		if take(p, offsets) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("no port is free on loopback between %d and %d", first, last)
}

// Test returns the address of a free port, or fails a test.
func Test(t interface {
	Helper()
	Fatal(...any)
},
) string {
	t.Helper()
	p, err := Pick()
	if err != nil {
		t.Fatal(err)
	}
	return Address(p)
}

// Address returns the address of a port on loopback.
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func take(p int, offsets []int) bool {
	ports := []int{p}
	for _, offset := range offsets {
		if offset != 0 {
			ports = append(ports, p+offset)
		}
	}
	for _, port := range ports {
		if given[port] || !isFree(port) {
			return false
		}
	}
	for _, port := range ports {
		given[port] = true
	}
	return true
}

func isFree(port int) bool {
	tcp, err := net.Listen("tcp", Address(port))
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", Address(port))
	if err != nil {
		return false
	}
	return udp.Close() == nil
}
