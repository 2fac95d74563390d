// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"

	"github.com/bucketring/bucketring/rpc/pb"
)

// FromWire converts the decision about a call of model.
func FromWire(d *pb.Decision, model string) Decision {
	x := Decision{
		Reason:     strings.ToLower(strings.TrimPrefix(d.GetReason().String(), "REASON_")),
		Model:      model,
		RetryAfter: -1,
		Limits:     LimitsFromWire(d.GetLimits()),
	}
	if d.RetryAfter != nil {
		x.RetryAfter = d.RetryAfter.AsDuration()
	}
	if i := int(d.GetBinding()); d.Binding != nil && i >= 0 && i < len(x.Limits) {
		x.Binding = &x.Limits[i]
	}
	return x
}

// LimitsFromWire converts the limits of an answer.
func LimitsFromWire(limits []*pb.LimitState) []Limit {
	out := make([]Limit, len(limits))
	for i, l := range limits {
		out[i] = Limit{
			Name:      l.GetName(),
			Dimension: l.GetDimension(),
			Scope:     l.GetScope(),
			Algorithm: l.GetAlgorithm(),
			Limit:     l.GetLimit(),
			Capacity:  l.GetCapacity(),
			Remaining: l.GetRemaining(),
			Debt:      l.GetDebt(),
			Window:    l.GetWindow().AsDuration(),
			Cost:      l.GetCost(),
			Shadow:    l.GetShadow(),
			Hidden:    l.GetHidden(),
			PerModel:  l.GetPerModel(),
		}
		if at := l.GetResetAt(); at != nil {
			out[i].ResetAt = at.AsTime()
		}
	}
	return out
}
