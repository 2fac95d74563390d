// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"math"
	"math/bits"
	"slices"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Limits are the limits of the decision with which a slice came, less what was spent and held
// since. They do not change any more.
type Limits struct {
	// Decision is the one with which the slice came. It is shared and must not be changed.
	Decision *pb.Decision
	// View is what [Options].View made of Decision. It is shared, too.
	View any

	costs []int64 // of the call; nil: as much as the one that the slice came with
	used  []int64 // of the slice, with this call; nil: the costs of so many calls
	calls int64
}

// Remaining returns what is left of limit i of the decision, which is not negative. What
// the owner and other holders have decided since is not known.
func (s *Limits) Remaining(i int) int64 {
	l := s.Decision.GetLimits()[i]
	if s.used != nil {
		return max(0, l.GetRemaining()-s.used[i])
	}
	return max(0, l.GetRemaining()-product(s.calls, l.GetCost()))
}

// Cost returns what limit i of the decision is charged for the call.
func (s *Limits) Cost(i int) int64 {
	if s.costs != nil {
		return s.costs[i]
	}
	return s.Decision.GetLimits()[i].GetCost()
}

// Answer is the answer to a check or a reserve from a slice.
type Answer struct {
	Limits
	// Granted is the output that a reserved call may generate, per choice.
	Granted int64

	reserve    bool
	windowEnds int64 // see source
}

// Settlement is the answer to a settle or a cancel that was done in memory.
type Settlement struct {
	Limits
	Cancelled bool // else it is settled
}

// product returns a*b for numbers that are not negative, and at most 2^63-1.
func product(a, b int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi > 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

// Fill makes d the answer to the call, with the given request id. The limits of d are new,
// but their times belong to Decision and must not be changed.
func (a *Answer) Fill(d *pb.Decision, requestID string) {
	from := a.Decision
	d.Reset()
	d.Outcome, d.Route = pb.Outcome_OUTCOME_ALLOWED, pb.Route_ROUTE_SLICE
	d.RequestId, d.Tier, d.Binding = requestID, from.GetTier(), from.Binding
	d.PolicyVersion, d.Owner = from.GetPolicyVersion(), from.GetOwner()
	if a.reserve {
		d.GrantedOutputTokens, d.BoundOutput = new(a.Granted), from.GetBoundOutput()
	}
	d.Limits = a.wire()
}

// wire returns the limits of an answer. They share memory with Decision.
func (s *Limits) wire() []*pb.LimitState {
	from := s.Decision.GetLimits()
	limits, list := make([]pb.LimitState, len(from)), make([]*pb.LimitState, len(from))
	for i, f := range from {
		l := &limits[i]
		l.Name, l.Dimension, l.Scope, l.Algorithm = f.GetName(), f.GetDimension(), f.GetScope(), f.GetAlgorithm()
		l.Limit, l.Remaining, l.Debt, l.Cost, l.Capacity = f.GetLimit(), s.Remaining(i), f.GetDebt(), s.Cost(i), f.GetCapacity()
		l.ResetAt, l.Window = f.GetResetAt(), f.GetWindow()
		l.Shadow, l.Exceeded, l.Hidden, l.PerModel = f.GetShadow(), f.GetExceeded(), f.GetHidden(), f.GetPerModel()
		list[i] = l
	}
	return list
}

// Fill makes p the answer to the settle or the cancel, with the given request id. Like that of
// [Answer.Fill], it shares memory with Decision.
func (s *Settlement) Fill(p *pb.Settlement, requestID string) {
	from := s.Decision
	p.Reset()
	p.RequestId, p.Status, p.Route = requestID, pb.ReservationStatus_RESERVATION_STATUS_SETTLED, pb.Route_ROUTE_SLICE
	if s.Cancelled {
		p.Status = pb.ReservationStatus_RESERVATION_STATUS_CANCELLED
	}
	p.Tier, p.PolicyVersion, p.Owner = from.GetTier(), from.GetPolicyVersion(), from.GetOwner()
	p.Limits = s.wire()
}

// grantOf returns the slice that came with a decision on q, and what else it came with. ok is
// false if it does not belong to the decision, is not for calls like q, a limit would have to
// be exceeded, or the answer is that of an earlier call, whose slice may have ended already:
// then it may only be returned.
func grantOf(q Request, asked int64, s *pb.Slice, d *pb.Decision) (g slice.Grant, from *source, ok bool) {
	g = slice.Grant{ID: s.GetId(), Amounts: slices.Clone(s.GetAmounts()), Lease: s.GetLeaseNanos(), AskedAt: asked}
	limits := d.GetLimits()
	if d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED || d.GetReplayed() || len(limits) != len(g.Amounts) {
		return g, nil, false
	}
	from = &source{slice: g.ID, decision: d}
	switch q := q.(type) {
	case *pb.CountRequest:
		if len(limits) != 1 || q.GetRequestId() != "" {
			return g, nil, false
		}
		from.windowEnds = asked + limits[0].GetWindow().AsDuration().Nanoseconds()
	case *pb.ReserveRequest:
		t, err := limiter.ReadTariff(s.GetTariff())
		if err != nil || t.Limits() != len(limits) {
			return g, nil, false
		}
		from.tariff = t
	}
	g.Costs = make([]int64, len(limits))
	for i, l := range limits {
		if g.Amounts[i] < 0 { // not slice.Unbounded, which is no amount of an owner
			return g, nil, false
		}
		g.Costs[i] = l.GetCost()
		if l.GetShadow() && from.tariff == nil {
			g.Amounts[i] = slice.Unbounded
		}
	}
	from.costs = g.Costs
	return g, from, true
}
