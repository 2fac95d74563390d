// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// maxWaitingLimits is how many limits are listed at which calls wait.
const maxWaitingLimits = 5

// OwnWaitingLimits lists the limits at which most calls wait at this member, their owner.
func (r *Router) OwnWaitingLimits() (list []*pb.WaitingLimit) {
	for _, l := range r.local.WaitingLimits(maxWaitingLimits) {
		list = append(list, &pb.WaitingLimit{
			Scope: l.Scope, Name: l.Name, Dimension: string(l.Dimension), Model: l.Model, Owner: r.name,
			Calls: waitingCalls(l.Waiting), Longest: durationpb.New(l.Longest),
		})
	}
	return list
}

// waitingCalls converts w. It returns nil if no call waits.
func waitingCalls(w server.Waiting) *pb.WaitingCalls {
	if w.Total() == 0 {
		return nil
	}
	return &pb.WaitingCalls{Interactive: w.Interactive, Standard: w.Standard, Batch: w.Batch}
}

// longestLines sorts limits by how many calls wait and returns the first.
func longestLines(limits []*pb.WaitingLimit) []*pb.WaitingLimit {
	count := func(l *pb.WaitingLimit) int64 {
		c := l.GetCalls()
		return c.GetInteractive() + c.GetStandard() + c.GetBatch()
	}
	slices.SortFunc(limits, func(a, b *pb.WaitingLimit) int {
		return cmp.Or(
			cmp.Compare(count(b), count(a)), cmp.Compare(b.GetLongest().AsDuration(), a.GetLongest().AsDuration()),
			cmp.Compare(a.GetScope(), b.GetScope()), cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetModel(), b.GetModel()),
		)
	})
	return limits[:min(maxWaitingLimits, len(limits))]
}
