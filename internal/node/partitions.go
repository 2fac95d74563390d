// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"maps"
	"slices"

	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/replication"
)

// PartitionsStatus lists partitions as this node knows them.
type PartitionsStatus struct {
	Name       string            `json:"name"` // of the node
	Partitions []PartitionStatus `json:"partitions"`
}

// PartitionStatus says who holds a partition.
type PartitionStatus struct {
	Partition int    `json:"partition"`
	Owner     string `json:"owner"` // "": it has had none
	Heir      string `json:"heir"`  // "": there is none
	// HeirComplete: the heir has all records.
	HeirComplete bool   `json:"heir_complete"`
	Role         string `json:"role"` // of this node
	Term         uint64 `json:"term"`
	// Transfer is what this node, the owner, sends to the next owner or heir.
	Transfer *TransferStatus `json:"transfer,omitempty"`
	// LagMillis is for how long the heir has lacked a charge, if this node is the owner.
	LagMillis int64 `json:"lag_ms"`
}

// TransferStatus is a copy of a partition on its way.
type TransferStatus struct {
	To      string `json:"to"`
	Becomes string `json:"becomes"` // owner or heir
	Phase   string `json:"phase"`   // offered, copying, catching up, sealed or voting
	Lacks   uint64 `json:"lacks"`   // changes that the receiver has not acknowledged
}

// concerns reports whether a member holds the partition, or is about to.
func (p *PartitionStatus) concerns(member string) bool {
	return p.Owner == member || p.Heir == member || p.Transfer != nil && p.Transfer.To == member
}

// Partitions lists all partitions, or those that a member holds or is about to hold. An
// unknown member is an [*httpapi.UnknownMemberError].
func (n *Node) Partitions(ctx context.Context, member string) (PartitionsStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	list, err := n.replication.Partitions(ctx)
	if err != nil {
		return PartitionsStatus{}, err
	}
	if member != "" {
		if known := n.namesOf(list); !slices.Contains(known, member) {
			return PartitionsStatus{}, &httpapi.UnknownMemberError{Name: member, Known: known}
		}
	}
	s := PartitionsStatus{Name: n.config.Name, Partitions: make([]PartitionStatus, 0, len(list))}
	for i := range list {
		if p := partitionStatus(&list[i]); member == "" || p.concerns(member) {
			s.Partitions = append(s.Partitions, p)
		}
	}
	return s, nil
}

// namesOf returns the names of the members and of those that hold partitions, sorted.
func (n *Node) namesOf(list []replication.PartitionStatus) []string {
	names := map[string]bool{}
	for _, m := range n.cluster.View().Members {
		names[m.Name] = true
	}
	for i := range list {
		p := &list[i]
		names[p.Owner.Name], names[p.Heir.Name] = true, true
		if p.Transfer != nil {
			names[p.Transfer.To.Name] = true
		}
	}
	delete(names, "") // of partitions without an owner or heir
	return slices.Sorted(maps.Keys(names))
}

func partitionStatus(p *replication.PartitionStatus) PartitionStatus {
	s := PartitionStatus{
		Partition: p.Partition, Owner: p.Owner.Name, Heir: p.Heir.Name, HeirComplete: p.HeirComplete,
		Role: p.Role.String(), Term: p.Term, LagMillis: p.Lag.Milliseconds(),
	}
	if t := p.Transfer; t != nil {
		s.Transfer = &TransferStatus{To: t.To.Name, Becomes: "heir", Phase: t.Phase.String(), Lacks: t.Lacks}
		if t.Move {
			s.Transfer.Becomes = "owner"
		}
	}
	return s
}
