// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// What counts where, so that sums over a cluster are right. A decision counts at
// the member that made it, in fallback too; the replay that tells the owner of it
// does not count again. A settle or a cancel counts when the owner is told of it:
// what a member did with it in fallback meanwhile does not.

// decided counts an answer, and says whether it was one to count.
func (s *Service) decided(x *scratch) bool {
	if x.request.Force {
		return false
	}
	if x.kind == call.Count {
		s.metrics.counted(&x.counted)
		return true
	}
	s.metrics.decided(s.route, &x.request, &x.decision)
	return true
}

// took observes the time of n decisions that began together.
func (s *Service) took(start limiter.Time, n int) {
	if n > 0 {
		s.metrics.took(s.route, time.Duration(s.now().Mono-start.Mono), n)
	}
}

// Observe takes the time of a decision that another service made for a call that
// came here, by its route.
func (s *Service) Observe(route pb.Route, took time.Duration) { s.metrics.took(route, took, 1) }

// settled counts a settle or a cancel.
func (s *Service) settled(x *scratch, err error) {
	if s.route != pb.Route_ROUTE_FALLBACK {
		s.metrics.settled(&x.decision, err)
	}
}
