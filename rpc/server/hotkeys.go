// SPDX-License-Identifier: Apache-2.0

package server

import (
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// HottestKeys returns up to n keys for which this member decides most often, see
// [limiter.Engine.HotKeys].
func (s *Service) HottestKeys(n int) limiter.HotKeys { return s.engine.HotKeys(s.now(), n) }

// NearestLimit returns the enforced limit of a key, its tier and its model with the smallest
// share left, or nil if there is none.
func (s *Service) NearestLimit(key *pb.HotKey) *pb.LimitState {
	c := call.Of(&pb.PeekRequest{Key: key.GetKey(), Tier: key.GetTier(), Model: key.GetModel()})
	now := s.now()
	x := s.newScratch()
	defer s.release(x)
	if x.validate(&c) != nil || s.resolve(now, x) != nil {
		return nil // the policy has changed since the call
	}
	d := &x.decision
	s.engine.Peek(now, &x.request, d)
	if d.Binding < 0 || d.Binding >= len(d.Limits) {
		return nil
	}
	return limits(d.Limits[d.Binding:d.Binding+1], &space{answers: 1})[0]
}
