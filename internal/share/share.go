// SPDX-License-Identifier: Apache-2.0

// Package share divides a resource of the node among remote addresses, so that none
// of them can take all of it.
package share

import (
	"net"
	"net/netip"
	"sync"
)

// Refusal says why a [Budget] gave nothing.
type Refusal string

// Reasons to refuse.
const (
	None        Refusal = ""
	AddressFull Refusal = "address" // the address has used up its share
	Full        Refusal = "node"    // the node has used up the budget
)

// Refusals lists the reasons, for the labels of metrics.
var Refusals = []Refusal{AddressFull, Full}

// Address returns what counts as one remote address: an IPv4 address, or the first
// 64 bits of an IPv6 address, all of which one host usually has. It is the zero Addr
// for an address that is not of TCP or UDP.
func Address(a net.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	var ip netip.Addr
	switch a := a.(type) {
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	case *net.UDPAddr:
		ip = a.AddrPort().Addr()
	default:
		text, err := netip.ParseAddrPort(a.String())
		if err != nil {
			return netip.Addr{}
		}
		ip = text.Addr()
	}
	return Of(ip)
}

// Of is [Address] of an IP address.
func Of(ip netip.Addr) netip.Addr {
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		if prefix, err := ip.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return ip
}

// A Budget is an amount of one resource. It is safe for concurrent use.
type Budget struct {
	limits Limits
	mu     struct {
		sync.Mutex
		used, byOthers int64 // in all, and by addresses that are not members'
		byAddress      map[netip.Addr]taken
	}
}

// taken is what an address has, which is more than 0.
type taken struct {
	n      int64
	member bool // when it took the first
}

// Limits are the amounts of a [Budget].
type Limits struct {
	// Total is the amount for all, PerAddress for each remote address.
	Total, PerAddress int64
	// Reserved is the part of Total that only members can take. PerAddress does not
	// bind them.
	Reserved int64
	// Member reports whether a remote address is a member's. It must not call the
	// budget. Nil: none is.
	Member func(netip.Addr) bool
}

// New returns a budget of which nothing is taken.
func New(l Limits) *Budget {
	if l.Member == nil {
		l.Member = func(netip.Addr) bool { return false }
	}
	b := &Budget{limits: l}
	b.mu.byAddress = map[netip.Addr]taken{}
	return b
}

// Take takes n, which is more than 0, for an address, or nothing. What it took must be
// given back.
func (b *Budget) Take(a netip.Addr, n int64) Refusal {
	member := b.limits.Member(a)
	b.mu.Lock()
	defer b.mu.Unlock()
	has, known := b.mu.byAddress[a]
	if !known {
		has.member = member
	}
	switch {
	case !has.member && n > b.limits.PerAddress-has.n:
		return AddressFull
	case n > b.limits.Total-b.mu.used, !has.member && n > b.limits.Total-b.limits.Reserved-b.mu.byOthers:
		return Full
	}
	has.n += n
	b.mu.byAddress[a] = has
	b.mu.used += n
	if !has.member {
		b.mu.byOthers += n
	}
	return None
}

// Give gives n back.
func (b *Budget) Give(a netip.Addr, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	has := b.mu.byAddress[a]
	b.mu.used -= n
	if !has.member {
		b.mu.byOthers -= n
	}
	if has.n -= n; has.n > 0 {
		b.mu.byAddress[a] = has
	} else {
		delete(b.mu.byAddress, a)
	}
}

// Used returns how much is taken.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.used
}

// Of returns how much an address has taken.
func (b *Budget) Of(a netip.Addr) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.byAddress[a].n
}

// Largest returns the address that has taken most and is not a member's, and how much.
func (b *Budget) Largest() (largest netip.Addr, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for a, has := range b.mu.byAddress {
		if has.n > n && !has.member {
			largest, n = a, has.n
		}
	}
	return largest, n
}
