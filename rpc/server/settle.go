// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// settle settles a reservation, or reports its progress. If the members that had the
// reservation are lost, the call brings it along: it is charged first, even beyond the
// limits, since it runs already. Its id is charged once, however often it comes.
func (s *Service) settle(now limiter.Time, x *scratch, c *call.Call) error {
	err := s.engine.Settle(now, &x.used, &x.decision)
	held := c.Settle().GetReservation()
	if held == nil || s.route == pb.Route_ROUTE_FALLBACK || !errors.Is(err, limiter.ErrUnknownReservation) {
		return err
	}
	if invalid := s.reassert(now, c, held); invalid != nil {
		return invalid
	}
	return s.engine.Settle(now, &x.used, &x.decision)
}

// reassert charges a reservation that a settle has brought along.
func (s *Service) reassert(now limiter.Time, c *call.Call, held *pb.ReserveRequest) error {
	if key := held.GetKey(); key != c.Key {
		return wrongText("reservation.key", key, "must be the key of the settle")
	}
	x := s.newScratch()
	defer s.release(x)
	x.kind, x.request.Force = call.Reserve, true
	err := x.reserve(held, c.RequestID)
	if err == nil {
		err = s.resolve(now, x)
	}
	if field, ok := errors.AsType[*limiter.FieldError](err); ok {
		return wrong("reservation."+field.Field, field.Value, field.Problem)
	}
	if err == nil {
		err = s.engine.Reserve(now, &x.request, &x.decision)
	}
	switch {
	case err != nil:
		return err
	case x.decision.Outcome == limiter.Denied: // there is no room for it
		return limiter.ErrUnknownReservation
	case !x.decision.Replayed:
		s.metrics.reasserted.Inc()
	}
	return nil
}
