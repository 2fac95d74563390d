// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// maxLocate bounds the keys of one request.
const maxLocate = 1024

// unreachable is the state of an owner that did not answer.
const unreachable = "unreachable"

// locateTimeout bounds the wait for one owner.
const locateTimeout = 500 * time.Millisecond

// Locate implements pb.RateLimiterServer. All locations are by one
// routing table. Owners report their own state, unless the caller asks for that of
// this member alone.
func (r *Router) Locate(ctx context.Context, q *pb.LocateRequest) (*pb.LocateResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, grpcstatus.FromContextError(err).Err()
	}
	keys := q.GetKeys()
	if len(keys) > maxLocate {
		return nil, wrongField("keys", strconv.Itoa(len(keys)), fmt.Sprintf("must be at most %d", maxLocate))
	}
	v := r.table.Load()
	located := make([]*pb.Location, len(keys))
	for i, key := range keys {
		peek := call.Of(&pb.PeekRequest{Key: key})
		if err := r.local.Validate(&peek); err != nil {
			wrong := server.Describe(err)
			problem := strings.TrimPrefix(wrong.Message, wrong.Field+": ")
			wrong.Field = fmt.Sprintf("keys[%d]", i)
			wrong.Message = wrong.Field + ": " + problem
			return nil, server.ErrorOf(&pb.Result{Result: &pb.Result_Error{Error: wrong}})
		}
		p := peek.Partition
		place := r.owners.Place(p)
		at := &pb.Location{Key: key, Partition: int32(p), State: place.Role.String(), Term: place.Term, Owner: place.Owner.Name, Heir: place.Heir.Name}
		if m := r.ownerOf(v, p); m != nil {
			at.Address = m.GRPC
		}
		located[i] = at
	}
	if !q.GetAlone() {
		r.askOwners(ctx, v, located)
	}
	return &pb.LocateResponse{Locations: located}, nil
}

// askOwners sets the state and the term of partitions that other members own.
func (r *Router) askOwners(ctx context.Context, v *routingTable, located []*pb.Location) {
	ctx, cancel := context.WithTimeout(ctx, locateTimeout)
	defer cancel()
	theirs := map[*memberConn][]*pb.Location{}
	for _, l := range located {
		if m := r.ownerOf(v, int(l.GetPartition())); m != nil && m.peer != nil {
			theirs[m] = append(theirs[m], l)
		}
	}
	var asking sync.WaitGroup
	for m, locations := range theirs {
		asking.Go(func() { r.askOwner(ctx, m, locations) })
	}
	asking.Wait()
}

// askOwner asks a member for the state and the term of what it owns.
func (r *Router) askOwner(ctx context.Context, m *memberConn, locations []*pb.Location) {
	q := &pb.LocateRequest{Alone: true}
	for _, l := range locations {
		q.Keys = append(q.Keys, l.GetKey())
	}
	answer, err := r.ask(ctx, m, &pb.PeerMessage{Message: &pb.PeerMessage_Locate{Locate: q}})
	said := answer.GetLocations()
	if err != nil || len(said.GetLocations()) != len(locations) {
		for _, l := range locations {
			l.State = unreachable
		}
		return
	}
	for i, l := range locations {
		l.State, l.Term = said.GetLocations()[i].GetState(), said.GetLocations()[i].GetTerm()
	}
}
