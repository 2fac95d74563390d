// SPDX-License-Identifier: Apache-2.0

package client

// ClusterStatus is what a client knows of its cluster.
type ClusterStatus struct {
	// Following means that a node sends ring changes. If not, Err says why, and calls
	// are routed by the last ring, or to Addrs if there was none.
	Following bool
	Err       error
	// Source is the address of the node that sends the rings, or sent the last one.
	Source string

	RingNumber uint64 // as counted by Source; 0: no ring is known
	RingDigest uint64 // equal for rings with the same owners
	Partitions int
	Members    []MemberStatus // sorted by name

	PendingSettlements int   // of SettleLater, not reported yet
	DroppedSettlements int64 // of SettleLater, since Dial

	// Withdrawals take back what was charged for calls that got no answer, or that another
	// node denied.
	PendingWithdrawals int
	// LostWithdrawals, since Dial, could not be sent within a minute, or were too many: a
	// check may stay charged, and a reservation held until its lease expires.
	LostWithdrawals int64

	Slices SliceStatus
}

// SliceStatus is what a client holds and has done with slices: parts of the limits of keys
// that it spends without asking. Counts are since Dial.
type SliceStatus struct {
	Held           int    // slices
	Open           int    // reservations that were made from these
	PendingReturns int    // slices that have ended and whose owners do not know it yet
	Checks         uint64 // that were answered from slices
	Reserves       uint64 // that were answered from slices
	Settled        uint64 // reservations that were settled or cancelled in memory
	Kept           uint64 // reservations that were left to owners, with the return of a slice
	Granted        uint64 // slices that owners have lent
	Returned       uint64 // slices that owners have taken back
	FailedReturns  uint64 // attempts to return a slice
	LostReturns    uint64 // slices that could not be returned: owners charge them in full
}

// MemberStatus is the state of one member of the ring, as seen by this client.
type MemberStatus struct {
	Name       string
	Address    string
	Partitions int // that it owns

	// Direct means that calls for its keys are sent to it. Otherwise there is no
	// connection, and other nodes are asked. If there must not be a connection,
	// because of Options.TLS or Options.MaxPeers, IndirectReason says why.
	Direct         bool
	IndirectReason error
	Connected      bool // has a stream for batches
	BreakerOpen    bool // it did not answer; other nodes are asked for a while
	Queued         int  // calls
	InFlight       int  // batches
	// Refused counts the calls that were not sent, with ErrOverloaded, because the
	// member would not answer them in time.
	Refused uint64
}

// Status returns what c knows of its cluster. It is for people and tests, and too
// slow to be called for every call.
func (c *Client) Status() ClusterStatus {
	s := ClusterStatus{
		PendingSettlements: c.settler.outbox.Len(), DroppedSettlements: c.settler.dropped.Load(),
		PendingWithdrawals: c.withdrawer.len(), LostWithdrawals: c.withdrawer.lost.Load(),
		Slices: c.sliceStatus(),
	}
	w := c.ring
	if w == nil {
		return s
	}
	w.mu.Lock()
	v := w.view.Load()
	s.Following, s.Err, s.Source = w.mu.err == nil && v != nil, w.mu.err, w.mu.source
	w.mu.Unlock()
	if v == nil {
		return s
	}
	s.RingNumber, s.RingDigest, s.Partitions = v.number, v.digest, len(v.owners)
	s.Members = make([]MemberStatus, len(v.members))
	for i, m := range v.members {
		s.Members[i] = MemberStatus{Name: m.name, Address: m.address, Direct: m.direct(), IndirectReason: m.noPeer}
		if m.peer != nil {
			l := m.peer.link.Status()
			s.Members[i].Connected, s.Members[i].BreakerOpen = l.Connected, l.BreakerOpen
			s.Members[i].Queued, s.Members[i].InFlight, s.Members[i].Refused = l.Queued, l.InFlight, l.Refused
		}
	}
	for _, i := range v.owners {
		if i != noOwner {
			s.Members[i].Partitions++
		}
	}
	return s
}

// Owner returns the name of the member that owns a key, "" if it is not known.
func (c *Client) Owner(key string) string {
	if c.ring == nil {
		return ""
	}
	if m := c.ring.view.Load().owner(key); m != nil {
		return m.name
	}
	return ""
}
