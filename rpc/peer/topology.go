// SPDX-License-Identifier: Apache-2.0

package peer

// Member is where a member of the cluster answers.
type Member struct {
	Name string
	Boot uint64
	GRPC string // host:port
}

// Topology is who is there, as the membership sees it.
type Topology struct {
	// Serving are the members that the ring is made of.
	Serving []Member
	// Others are alive, but own nothing: they join or leave.
	Others []Member
	// Fenced: another boot holds the slot of this node, which decides nothing.
	Fenced bool
	// Roster is how many members may be deciding somewhere, at least 1.
	Roster int
}
