// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Limits of the ring that a node may send.
const (
	maxRingBytes  = 1 << 20
	maxMembers    = 1024
	maxPartitions = 1 << 16
	maxNameBytes  = 256

	noOwner = 0xffff // in the wire format of owners
)

// view is one ring, with the connections to its members. It is immutable.
type view struct {
	number, digest uint64
	members        []*member // sorted by name
	owners         []uint16  // by partition: an index of members, or noOwner
	extra          []*node   // of the members that are not seeds
}

// member is one node of the ring.
type member struct {
	name, address string
	boot          uint64
	peer          *peer // nil: other nodes are asked instead
	noPeer        error // why peer is nil
}

// direct reports whether calls can be sent to m now.
func (m *member) direct() bool { return m.peer != nil && m.peer.ready.Load() }

// owner returns the owner of a key, nil if it is not known.
func (v *view) owner(key string) *member {
	if v == nil || len(v.owners) == 0 {
		return nil
	}
	i := v.owners[keypath.Partition(key, len(v.owners))]
	if i == noOwner {
		return nil
	}
	return v.members[i]
}

// member returns the member with a name, nil if it is not in the ring.
func (v *view) member(name string) *member {
	if v == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(v.members, name, func(m *member, name string) int { return strings.Compare(m.name, name) })
	if !found {
		return nil
	}
	return v.members[i]
}

// parseRing validates a ring from the network and returns its view, without
// connections.
func parseRing(r *pb.Ring) (*view, error) {
	if n := len(r.GetMembers()); n > maxMembers {
		return nil, fmt.Errorf("ring: members: must be at most %d, got %d", maxMembers, n)
	}
	owners := r.GetOwners()
	if n := len(owners); n == 0 || n%2 != 0 || n > 2*maxPartitions {
		return nil, fmt.Errorf("ring: owners: must be 2 bytes for each of 1 to %d partitions, got %d bytes", maxPartitions, n)
	}
	v := &view{
		number:  r.GetNumber(),
		digest:  r.GetDigest(),
		members: make([]*member, len(r.GetMembers())),
		owners:  make([]uint16, len(owners)/2),
	}
	for i, m := range r.GetMembers() {
		name, address := m.GetName(), m.GetAddress()
		if name == "" || len(name) > maxNameBytes || len(address) > maxNameBytes {
			return nil, fmt.Errorf("ring: members[%d]: must have a name and an address of at most %d bytes", i, maxNameBytes)
		}
		if i > 0 && name <= v.members[i-1].name {
			return nil, fmt.Errorf("ring: members[%d]: must be sorted by name, got %q after %q", i, name, v.members[i-1].name)
		}
		v.members[i] = &member{name: name, address: address, boot: m.GetBoot()}
	}
	for p := range v.owners {
		i := binary.LittleEndian.Uint16(owners[2*p:])
		if i != noOwner && int(i) >= len(v.members) {
			return nil, fmt.Errorf("ring: owners[%d]: must be one of %d members, got %d", p, len(v.members), i)
		}
		v.owners[p] = i
	}
	return v, nil
}

// equal reports whether two views have the same members and owners.
func (v *view) equal(w *view) bool {
	return v != nil && v.digest == w.digest && slices.Equal(v.owners, w.owners) &&
		slices.EqualFunc(v.members, w.members, func(a, b *member) bool {
			return a.name == b.name && a.address == b.address && a.boot == b.boot
		})
}

// dialRules say to which members a client may connect.
type dialRules struct {
	anyAddress bool // TLS or Options.Insecure is set
	loopback   bool // one of Options.Addrs is on this machine
}

var errNotDirect = errors.New("the member is asked through Options.Addrs")

// target returns the host:port of a member to connect to, or why not. It is stricter
// than [parseAddr], because the address comes from the network.
func (r dialRules) target(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%q is not a host:port: %w", address, errNotDirect)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	ip, notIP := netip.ParseAddr(host)
	if err != nil || number == 0 || notIP != nil && !isHostName(host) || notIP == nil && (ip.IsUnspecified() || ip.IsMulticast()) {
		return "", fmt.Errorf("%q is not a host:port: %w", address, errNotDirect)
	}
	switch local := isLoopback(host); {
	case local && !r.loopback:
		return "", fmt.Errorf("%s is on another machine: %w", address, errNotDirect)
	case !local && !r.anyAddress:
		return "", fmt.Errorf("%s is not a loopback address, and there is no TLS: %w", address, errNotDirect)
	}
	return net.JoinHostPort(host, port), nil
}

// isHostName reports whether s has only characters of DNS names.
func isHostName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return s != ""
}
