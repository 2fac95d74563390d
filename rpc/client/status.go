// SPDX-License-Identifier: Apache-2.0

package client

// ClusterStatus is what a client knows of its cluster.
type ClusterStatus struct {
	// Followed: a node sends the rings. If not, Err says why, and calls go by
	// the last ring, or to Addrs if there was none.
	Followed bool
	Err      error
	// Source is the address of the node that sends the rings, or did last.
	Source string

	Number     uint64 // of the ring, at Source; 0: none is known
	Digest     uint64 // the same wherever the owners are
	Partitions int
	Members    []MemberStatus // sorted by name

	Waiting int   // settlements of SettleLater that were not reported yet
	Dropped int64 // those that never will be
}

// MemberStatus is a member of the ring, as this client sees it.
type MemberStatus struct {
	Name       string
	Address    string
	Partitions int // that it owns

	// Direct: calls for its keys go to it. If not, other nodes are asked, since
	// there is no connection. Indirect says why there must not be one: see
	// Options.TLS and Options.MaxPeers.
	Direct      bool
	Indirect    error
	Connected   bool // has a stream of batches
	BreakerOpen bool // it did not answer; other nodes are asked for a while
	Queued      int  // calls
	InFlight    int  // batches
}

// Status returns what c knows of its cluster. It is for people and tests, and
// too slow to be asked with every call.
func (c *Client) Status() ClusterStatus {
	s := ClusterStatus{Waiting: c.later.box.Len(), Dropped: c.later.dropped.Load()}
	f := c.ring
	if f == nil {
		return s
	}
	f.mu.Lock()
	v := f.view.Load()
	s.Followed, s.Err, s.Source = f.mu.err == nil && v != nil, f.mu.err, f.mu.source
	f.mu.Unlock()
	if v == nil {
		return s
	}
	s.Number, s.Digest, s.Partitions = v.number, v.digest, len(v.owners)
	s.Members = make([]MemberStatus, len(v.members))
	for i, m := range v.members {
		s.Members[i] = MemberStatus{Name: m.name, Address: m.address, Direct: m.direct(), Indirect: m.indirect}
		if m.peer != nil {
			l := m.peer.link.Status()
			s.Members[i].Connected, s.Members[i].BreakerOpen = l.Connected, l.BreakerOpen
			s.Members[i].Queued, s.Members[i].InFlight = l.Queued, l.InFlight
		}
	}
	for _, i := range v.owners {
		if i != nobody {
			s.Members[i].Partitions++
		}
	}
	return s
}

// Owner returns the name of the member that decides for a key, as far as c
// knows: "" before there is a ring.
func (c *Client) Owner(key string) string {
	if c.ring == nil {
		return ""
	}
	if m := c.ring.view.Load().owner(key); m != nil {
		return m.name
	}
	return ""
}
