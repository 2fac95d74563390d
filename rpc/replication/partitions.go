// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
)

// PartitionStatus is what this member knows of a partition.
type PartitionStatus struct {
	Partition int
	Place
	// HeirComplete: the heir is known to have all records.
	HeirComplete bool
	// Transfer is the copy that this member, the owner, is sending to the next owner or
	// heir; nil if there is none.
	Transfer *continuity.Transfer
	// Lag is for how long the heir has lacked a change of this member, the owner; 0 if it
	// lacks none.
	Lag time.Duration
}

// Partitions returns the state of all partitions, by number, between two steps of the
// protocol. The error is that of ctx, or says that Run has ended.
func (h *Host) Partitions(ctx context.Context) ([]PartitionStatus, error) {
	var list []PartitionStatus
	if err := h.inLoop(ctx, "partitions of replication", func(l *loop) { list = l.partitions() }); err != nil {
		return nil, err // and not list, which the loop may still set
	}
	return list, nil
}

func (l *loop) partitions() []PartitionStatus {
	list := make([]PartitionStatus, len(l.parts))
	now := l.clock()
	for i := range list {
		a := l.m.Current(i)
		s := PartitionStatus{
			Partition:    i,
			Place:        Place{Role: l.m.Role(i), Owner: a.Owner, Heir: a.Heir, Term: a.Term, Origin: a.Origin},
			HeirComplete: l.m.Synced(i),
		}
		if a.Owner == l.self {
			s.Lag = lagOf(a.Heir, l.m.LagsAfter(i), now)
			if t, ok := l.m.Transfer(i); ok {
				s.Transfer = &t
			}
		}
		list[i] = s
	}
	return list
}
