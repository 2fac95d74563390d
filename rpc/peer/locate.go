// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/ownership"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// maxLocate bounds the keys of one question.
const maxLocate = 1024

// Locate implements pb.RateLimiterServer. All locations are of one view.
func (r *Router) Locate(ctx context.Context, q *pb.LocateRequest) (*pb.LocateResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, grpcstatus.FromContextError(err).Err()
	}
	keys := q.GetKeys()
	if len(keys) > maxLocate {
		return nil, wrongField("keys", strconv.Itoa(len(keys)), fmt.Sprintf("must be at most %d", maxLocate))
	}
	v := r.view.Load()
	table := v.roles.Table()
	located := make([]*pb.Location, len(keys))
	for i, key := range keys {
		if err := r.local.Validate(&pb.Item{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: key}}}); err != nil {
			wrong := server.Describe(err)
			problem := strings.TrimPrefix(wrong.Message, wrong.Field+": ")
			wrong.Field = fmt.Sprintf("keys[%d]", i)
			wrong.Message = wrong.Field + ": " + problem
			return nil, restore(wrong)
		}
		p := ring.PartitionOf(key)
		at := &pb.Location{Key: key, Partition: int32(p), State: v.roles.Role(p).String(), Term: v.roles.Term(p)}
		if m := v.owner(p); m != nil {
			at.Owner, at.Address, at.Heir = m.Name, m.GRPC, table.Heir(p)
		} else if v.alone {
			at.Owner, at.State = r.name, ownership.Active.String()
		}
		located[i] = at
	}
	return &pb.LocateResponse{Locations: located}, nil
}
