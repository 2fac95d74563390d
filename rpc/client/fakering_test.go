// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// The parts of a fake node that serve a ring and batches.

// partitions is the number in a fake ring, different from that in a real one.
const partitions = 60

// ring returns a ring whose partitions belong to the named members in turn.
func (f *fake) ring(number uint64, names ...string) *pb.Ring {
	slices.Sort(names)
	r := &pb.Ring{Number: number, Digest: xxhash.Sum64String(join(names))}
	for _, name := range names {
		r.Members = append(r.Members, &pb.RingMember{Name: name, Address: f.nodes[name].address, Boot: 1})
	}
	for p := range partitions {
		r.Owners = binary.LittleEndian.AppendUint16(r.Owners, uint16(p%len(names)))
	}
	return r
}

func join(names []string) (s string) {
	for _, name := range names {
		s += name + "/"
	}
	return s
}

// ownerIn returns the owner of a key in r.
func ownerIn(r *pb.Ring, key string) string {
	p := keypath.Partition(key, len(r.GetOwners())/2)
	return r.GetMembers()[binary.LittleEndian.Uint16(r.GetOwners()[2*p:])].GetName()
}

// serveRing makes the members of r use it, and every node send it.
func (f *fake) serveRing(r *pb.Ring) {
	f.decideBy(r)
	for _, n := range f.nodes {
		n.sendRing(r)
	}
}

// decideBy makes the members of r redirect calls by it.
func (f *fake) decideBy(r *pb.Ring) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.owner = func(key string) string { return ownerIn(r, key) }
}

// sendRing makes n send r to its watchers.
func (n *fakeNode) sendRing(r *pb.Ring) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.ring = r
	close(n.mu.changed)
	n.mu.changed = make(chan struct{})
}

// Watch implements pb.RateLimiterServer.
func (n *fakeNode) Watch(r *pb.WatchRequest, s grpc.ServerStreamingServer[pb.Ring]) error {
	n.mu.Lock()
	n.mu.watched++
	n.mu.Unlock()
	for {
		n.mu.Lock()
		ring, changed, stop, mute := n.mu.ring, n.mu.changed, n.mu.stop, n.mu.mute
		n.mu.Unlock()
		if mute {
			<-s.Context().Done()
			return s.Context().Err()
		}
		if ring == nil {
			return n.UnimplementedRateLimiterServer.Watch(r, s)
		}
		if err := s.Send(ring); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stop:
			return nil
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// mute makes n accept watchers and send nothing.
func (n *fakeNode) mute() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.mute = true
}

// drain ends the streams of n with OK.
func (n *fakeNode) drain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.mu.stop)
	n.mu.stop = make(chan struct{})
}

// batches sets a function that changes the answers to batches.
func (n *fakeNode) batches(change func(*pb.Batch, *pb.Answers)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.batch = change
}

// asked returns how many calls came in batches, and how many were unary.
func (n *fakeNode) asked() (direct, alone int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.direct, len(n.mu.ids) - n.mu.direct
}

// watches returns the number of Watch streams so far.
func (n *fakeNode) watches() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.watched
}

// Exchange implements pb.RateLimiterServer.
func (n *fakeNode) Exchange(s grpc.BidiStreamingServer[pb.Batch, pb.Answers]) error {
	n.mu.Lock()
	stop := n.mu.stop
	n.mu.Unlock()
	return link.Serve(s, stop, func(b *pb.Batch) *pb.Answers {
		out := &pb.Answers{Sequence: b.GetSequence()}
		for _, item := range b.GetItems() {
			out.Results = append(out.Results, n.answer(s.Context(), item))
		}
		n.mu.Lock()
		change := n.mu.batch
		n.mu.Unlock()
		if change != nil {
			change(b, out)
		}
		return out
	})
}

func (n *fakeNode) answer(ctx context.Context, item *pb.Item) *pb.Result {
	key, call := n.call(item)
	n.cluster.mu.Lock()
	owner := n.cluster.mu.owner
	n.cluster.mu.Unlock()
	if owner != nil && owner(key) != n.name {
		to := n.cluster.nodes[owner(key)]
		return &pb.Result{Result: &pb.Result_Redirect{Redirect: &pb.Redirect{Owner: to.name, Address: to.address}}}
	}
	n.mu.Lock()
	n.mu.direct++
	n.mu.Unlock()
	answer, err := call(ctx)
	if err != nil {
		return &pb.Result{Result: &pb.Result_Error{Error: server.Describe(err)}}
	}
	switch answer := answer.(type) {
	case *pb.Decision:
		r := &pb.Result{Result: &pb.Result_Decision{Decision: answer}}
		if item.GetTakesSlice() && n.cluster.lend != nil {
			r.Slice = n.cluster.lend(n, item.GetCheck(), answer)
		}
		return r
	case *pb.SliceEnded:
		return &pb.Result{Result: &pb.Result_SliceEnded{SliceEnded: answer}}
	case *pb.Settlement:
		return &pb.Result{Result: &pb.Result_Settlement{Settlement: answer}}
	default:
		return &pb.Result{Result: &pb.Result_Limits{Limits: answer.(*pb.PeekResponse)}}
	}
}

// call returns the key of an item, and a function that answers it like a unary call.
func (n *fakeNode) call(item *pb.Item) (key string, call func(context.Context) (proto.Message, error)) {
	switch c := item.GetCall().(type) {
	case *pb.Item_Check:
		return c.Check.GetKey(), func(ctx context.Context) (proto.Message, error) { return n.Check(ctx, c.Check) }
	case *pb.Item_Reserve:
		return c.Reserve.GetKey(), func(ctx context.Context) (proto.Message, error) { return n.Reserve(ctx, c.Reserve) }
	case *pb.Item_Settle:
		return c.Settle.GetKey(), func(ctx context.Context) (proto.Message, error) { return n.Settle(ctx, c.Settle) }
	case *pb.Item_SliceReturn:
		return c.SliceReturn.GetKey(), func(ctx context.Context) (proto.Message, error) {
			_, err := n.handle(ctx, c.SliceReturn.GetSlice(), c.SliceReturn)
			return &pb.SliceEnded{}, err
		}
	case *pb.Item_Cancel:
		return c.Cancel.GetKey(), func(ctx context.Context) (proto.Message, error) { return n.Cancel(ctx, c.Cancel) }
	}
	p := item.GetPeek()
	return p.GetKey(), func(ctx context.Context) (proto.Message, error) { return n.Peek(ctx, p) }
}
