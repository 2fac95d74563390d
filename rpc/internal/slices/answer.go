// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"github.com/bucketring/bucketring/limiter/slice"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Answer is the answer to a check from a slice: the decision with which the slice came, less
// what was spent since.
type Answer struct {
	// Decision is the one with which the slice came. It is shared and must not be changed.
	Decision *pb.Decision
	// View is what [Options].View made of Decision. It is shared, too.
	View any

	calls int64 // that were decided from the slice, with this one
}

// Remaining returns what is left of limit i of the decision, which is not negative. What
// the owner and other holders have decided since is not known.
func (a *Answer) Remaining(i int) int64 {
	l := a.Decision.GetLimits()[i]
	return max(0, l.GetRemaining()-slice.Product(a.calls, l.GetCost()))
}

// Fill makes d the answer to the check, with the given request id. The limits of d are new,
// but their times belong to Decision and must not be changed.
func (a *Answer) Fill(d *pb.Decision, requestID string) {
	from := a.Decision
	d.Reset()
	d.Outcome, d.Route = pb.Outcome_OUTCOME_ALLOWED, pb.Route_ROUTE_SLICE
	d.RequestId, d.Tier, d.Binding = requestID, from.GetTier(), from.Binding
	d.PolicyVersion, d.Owner = from.GetPolicyVersion(), from.GetOwner()
	limits := make([]pb.LimitState, len(from.GetLimits()))
	d.Limits = make([]*pb.LimitState, len(limits))
	for i, f := range from.GetLimits() {
		l := &limits[i]
		l.Name, l.Dimension, l.Scope, l.Algorithm = f.GetName(), f.GetDimension(), f.GetScope(), f.GetAlgorithm()
		l.Limit, l.Remaining, l.Debt, l.Cost, l.Capacity = f.GetLimit(), a.Remaining(i), f.GetDebt(), f.GetCost(), f.GetCapacity()
		l.ResetAt, l.Window = f.GetResetAt(), f.GetWindow()
		l.Shadow, l.Exceeded, l.Hidden, l.PerModel = f.GetShadow(), f.GetExceeded(), f.GetHidden(), f.GetPerModel()
		d.Limits[i] = l
	}
}

// grantOf returns the slice that came with a decision. ok is false if it does not belong to
// the decision, a limit would have to be exceeded, or the answer is that of an earlier call,
// whose slice may have ended already: then it may only be returned.
func grantOf(asked int64, s *pb.Slice, d *pb.Decision) (g slice.Grant, ok bool) {
	g = slice.Grant{ID: s.GetId(), Amounts: s.GetAmounts(), Lease: s.GetLeaseNanos(), AskedAt: asked}
	limits := d.GetLimits()
	if d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED || d.GetReplayed() || len(limits) != len(g.Amounts) {
		return g, false
	}
	g.Costs = make([]int64, len(limits))
	for i, l := range limits {
		g.Costs[i] = l.GetCost()
		if g.Amounts[i] == 0 && g.Costs[i] > 0 && !l.GetShadow() {
			return g, false
		}
	}
	return g, true
}
