// SPDX-License-Identifier: Apache-2.0

package peer

// Member is one boot of a member and its addresses.
type Member struct {
	Name   string
	Boot   uint64 // greater in each later run
	GRPC   string // host:port
	TLS    bool   // its gRPC takes TLS
	Gossip string // host:port; "": not known
}

// Topology lists the members that the membership sees.
type Topology struct {
	// Serving are the members on the ring.
	Serving []Member
	// Joining and Leaving are alive but not on the ring.
	Joining, Leaving []Member
	// Fenced: another boot has the name of this member, which decides nothing.
	Fenced bool
	// Roster is the number of members that may be deciding, at least 1.
	Roster int
}
