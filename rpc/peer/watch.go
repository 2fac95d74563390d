// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"encoding/binary"
	"slices"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
)

// feed is the ring that watchers see, until the next one replaces it.
type feed struct {
	ring    *pb.Ring      // never changed
	changed chan struct{} // closed when there is a newer one
}

func newFeed(number uint64, v *routingTable) *feed {
	table := v.roles.Table()
	made := &pb.Ring{Number: number, Digest: table.Digest(), Owners: make([]byte, 0, 2*ring.Partitions)}
	for _, m := range v.members {
		made.Members = append(made.Members, &pb.RingMember{Name: m.Name, Address: m.GRPC, Boot: m.Boot})
	}
	for p := range ring.Partitions {
		made.Owners = binary.LittleEndian.AppendUint16(made.Owners, uint16(table.OwnerIndex(p))) // -1 is 0xffff
	}
	return &feed{ring: made, changed: make(chan struct{})}
}

// follow returns the feed of v: f itself if watchers would see no difference.
func (f *feed) follow(v *routingTable) *feed {
	same := f.ring.Digest == v.roles.Table().Digest() && slices.EqualFunc(f.ring.Members, v.members, func(a *pb.RingMember, b *memberConn) bool {
		return a.Name == b.Name && a.Address == b.GRPC && a.Boot == b.Boot
	})
	if same {
		return f
	}
	return newFeed(f.ring.Number+1, v)
}

// Watch implements pb.RateLimiterServer. A slow watcher skips to the newest ring. The
// stream ends without an error when the node drains.
func (r *Router) Watch(_ *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.Ring]) error {
	if err := r.checkDraining(); err != nil {
		return err
	}
	r.metrics.watchers.Inc()
	defer r.metrics.watchers.Dec()
	for {
		f := r.table.Load().feed
		if err := stream.Send(f.ring); err != nil {
			return err
		}
		select {
		case <-f.changed:
		case <-r.drain:
			return nil
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
