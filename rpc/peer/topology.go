// SPDX-License-Identifier: Apache-2.0

package peer

// Member is one boot of a member and its address.
type Member struct {
	Name string
	Boot uint64
	GRPC string // host:port
}

// Topology lists the members that the membership sees.
type Topology struct {
	// Serving are the members on the ring.
	Serving []Member
	// Others are alive but not on the ring: they are joining or leaving.
	Others []Member
	// Fenced: another boot has the name of this member, which decides nothing.
	Fenced bool
	// Roster is the number of members that may be deciding, at least 1.
	Roster int
}
