// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"slices"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// HottestKeys lists up to n keys for which this member decides most often, with the limit of
// each that is nearest to its end, and how often the member decides in all. asker returns
// who has a [call.Call].Asker, or nil if that is not known any more.
func (s *Service) HottestKeys(n int, asker func(id uint32) *pb.Asker) ([]*pb.HotKey, *pb.MemberRate) {
	now := s.now()
	top := s.engine.HotKeys(now, n)
	keys := make([]*pb.HotKey, len(top.Keys))
	for i := range top.Keys {
		from := &top.Keys[i]
		key := &pb.HotKey{Key: from.Key, Owner: s.owner, Rate: from.Rate, RateError: from.Error, Tier: from.Tier, Model: from.Model}
		for _, a := range from.Askers {
			if named := asker(a.ID); named != nil {
				named.Rate = a.Rate
				key.Askers = append(key.Askers, named)
			}
		}
		slices.SortFunc(key.Askers, func(a, b *pb.Asker) int {
			return cmp.Or(cmp.Compare(b.GetRate(), a.GetRate()), cmp.Compare(a.GetMember(), b.GetMember()), cmp.Compare(a.GetClient(), b.GetClient()))
		})
		key.Limit = s.nearestLimit(key)
		keys[i] = key
	}
	return keys, &pb.MemberRate{Member: s.owner, Rate: top.Rate, Sampling: int32(top.Weight)}
}

// nearestLimit returns the enforced limit of a key with the smallest share left, or nil.
func (s *Service) nearestLimit(key *pb.HotKey) *pb.LimitState {
	c := call.Of(&pb.PeekRequest{Key: key.GetKey(), Tier: key.GetTier(), Model: key.GetModel()})
	x := s.newScratch()
	defer s.release(x)
	if x.validate(&c) != nil || s.resolve(x) != nil {
		return nil // the policy has changed since the call
	}
	d := &x.decision
	s.engine.Peek(s.now(), &x.request, d)
	if d.Binding < 0 || d.Binding >= len(d.Limits) {
		return nil
	}
	return limits(d.Limits[d.Binding:d.Binding+1], &space{answers: 1})[0]
}
