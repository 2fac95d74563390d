// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
)

// feed is the ring that watchers see, until the next one replaces it.
type feed struct {
	ring    *pb.Ring      // never changed
	changed chan struct{} // closed when there is a newer one
}

// ringInterval is the least time between two rings for watchers. Many partitions change
// their owner in a short time when a member comes or goes.
const ringInterval = 50 * time.Millisecond

// OwnersChanged has watchers see the owners as they are now, soon. It does not block.
func (r *Router) OwnersChanged() { r.ownersChanged.Set() }

// publishRings gives watchers a new ring when owners or members have changed, until ctx
// is done.
func (r *Router) publishRings(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ownersChanged.C():
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		r.forgetLent()
		r.moveWaiting()
		old, next := r.feed.Load(), r.ringNow()
		if next.Number = old.ring.Number; !proto.Equal(next, old.ring) {
			next.Number++
			r.feed.Store(&feed{ring: next, changed: make(chan struct{})})
			close(old.changed)
		}
		pause.Reset(ringInterval)
	}
}

// ringNow returns the ring with the owners as this member knows them. A partition whose
// owner is not known, or has gone, is said to be of the member that will get it.
func (r *Router) ringNow() *pb.Ring {
	v := r.table.Load()
	members := slices.Clone(v.members)
	for _, m := range v.others {
		if v.member(m.Name) == m { // not an earlier boot of a member that serves
			members = append(members, m)
		}
	}
	slices.SortFunc(members, func(a, b *memberConn) int { return strings.Compare(a.Name, b.Name) })
	index := map[string]uint16{}
	now := &pb.Ring{Digest: v.ring.Digest(), Owners: make([]byte, 0, 2*ring.Partitions)}
	for i, m := range members {
		index[m.Name] = uint16(i)
		now.Members = append(now.Members, &pb.RingMember{Name: m.Name, Address: m.GRPC, Boot: m.Boot})
	}
	for p := range ring.Partitions {
		name := v.ring.Owner(p)
		if m := r.ownerOf(v, p); m != nil {
			name = m.Name
		}
		i, known := index[name]
		if !known {
			i = noOwner
		}
		now.Owners = binary.LittleEndian.AppendUint16(now.Owners, i)
	}
	return now
}

// noOwner is the index of the owner of a partition that has none.
const noOwner = 0xffff

// Watch implements pb.RateLimiterServer. A slow watcher skips to the newest ring. The
// stream ends without an error when the node drains.
func (r *Router) Watch(_ *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.Ring]) error {
	if err := r.checkDraining(); err != nil {
		return err
	}
	session := auth.SessionOf(stream.Context())
	r.metrics.watchers.Inc()
	defer r.metrics.watchers.Dec()
	for {
		f := r.feed.Load()
		if err := stream.Send(f.ring); err != nil {
			return err
		}
		select {
		case <-f.changed:
		case <-r.drain:
			return nil
		case <-session.Ended():
			return session.Err()
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
