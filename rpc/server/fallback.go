// SPDX-License-Identifier: Apache-2.0

package server

import (
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Fallback returns a service that decides without the owner, by an engine and a
// policy of its own. Its answers have the route fallback, and this member as
// their owner. Clock, ids and metrics are those of s, but for the metrics of an
// engine's state: they show that of s only.
func (s *Service) Fallback(engine *limiter.Engine, policy func() Policy) *Service {
	f := &Service{
		engine:  engine,
		policy:  policy,
		now:     s.now,
		newID:   s.newID,
		owner:   s.owner,
		route:   pb.Route_ROUTE_FALLBACK,
		metrics: s.metrics,
	}
	f.init()
	return f
}
