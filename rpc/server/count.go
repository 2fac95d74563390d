// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// The metrics of all members add up. A decision is counted by the member that made it,
// in fallback too, and its replay at the owner is not counted again. A settle or a
// cancel is counted only by the owner.

// countDecision counts a decision. It reports false for a replay, which is not counted.
func (s *Service) countDecision(x *scratch) bool {
	if x.request.Force || x.wait.mayWait { // which is counted when it has waited
		return false
	}
	if x.kind == call.Count {
		s.metrics.counted(&x.counted)
		return true
	}
	s.metrics.decided(s.route, &x.request, &x.decision)
	return true
}

// observeSince records the duration of n decisions that began together, and may be traced.
func (s *Service) observeSince(start limiter.Time, n int, trace string) {
	if n > 0 {
		s.metrics.observe(s.route, time.Duration(s.now().Mono-start.Mono), n, trace)
	}
}

// Observe records the duration of a decision that another member made for a call of
// this one, by its route.
func (s *Service) Observe(route pb.Route, d time.Duration) { s.metrics.observe(route, d, 1, "") }

// ObserveTraced is Observe for one of the calls of results, which may be traced.
func (s *Service) ObserveTraced(results *Results, route pb.Route, d time.Duration) {
	s.metrics.observe(route, d, 1, results.trace)
}

// countSettle counts a settle or a cancel.
func (s *Service) countSettle(x *scratch, err error) {
	if s.route != pb.Route_ROUTE_FALLBACK {
		s.metrics.settled(&x.decision, err)
	}
}
