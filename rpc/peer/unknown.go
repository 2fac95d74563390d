// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// endUnknown answers a settle or a cancel of a reservation that the owner does not know. It
// returns nil if nobody knows it.
func (r *Router) endUnknown(c *call.Call) *pb.Result {
	if result, known := r.endInFallback(c); known {
		return result
	}
	if c.Decider == "" && c.Attempt == 0 && r.lender.mayHave(c.Partition, c.Key, c.RequestID) {
		return unavailable("the reservation may be in a slice that was lent to a client, and is not returned yet: try again")
	}
	return nil
}

// mayHave reports whether a client may have made a reservation from a slice of key, so that
// this member, which does not know the id, will when the slice is returned: from one that was
// lent before the id was asked for first. So that is over when these slices are, whatever is
// lent later. The ids of reservations that members make name them.
func (l *lender) mayHave(partition int, key, id string) bool {
	if l.outstanding.Load() == 0 {
		return false
	}
	now := l.now()
	p := &l.partitions[partition]
	p.Lock()
	defer p.Unlock()
	k := p.keys[key]
	if k == nil {
		return false
	}
	l.pruneLocked(k, now)
	first, asked := k.unknown[id]
	if !asked {
		first = now
	}
	switch mayHave := k.lentToClient(first); {
	case !mayHave:
		delete(k.unknown, id)
		return false
	case asked:
		return true
	}
	if len(k.unknown) >= maxKeyUnknown {
		maps.DeleteFunc(k.unknown, func(_ string, first time.Duration) bool { return !k.lentToClient(first) })
		if len(k.unknown) >= maxKeyUnknown {
			return false
		}
	}
	if k.unknown == nil {
		k.unknown = map[string]time.Duration{}
	}
	k.unknown[strings.Clone(id)] = first
	return true
}

// lentToClient reports whether a slice for reserves is outstanding that was lent to a client at
// a time or before.
func (k *lentKey) lentToClient(at time.Duration) bool {
	return slices.ContainsFunc(k.slices, func(s *lentSlice) bool { return s.reserve && !s.holder.member && s.lent <= at })
}
