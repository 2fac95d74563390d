// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/rpc/pb"
)

// EnumNames are the names of the values of an enumeration, by number: OUTCOME_ALLOWED is
// allowed.
type EnumNames []string

// EnumNamesOf returns the names of values, without their prefix.
func EnumNamesOf(values map[int32]string, prefix string) EnumNames {
	names := make(EnumNames, len(values))
	for number, name := range values {
		names[number] = strings.ToLower(strings.TrimPrefix(name, prefix))
	}
	return names
}

// Of returns the name of a value: the number if it has none.
func (n EnumNames) Of(value int32) string {
	if value < 0 || int(value) >= len(n) {
		return strconv.Itoa(int(value))
	}
	return n[value]
}

var (
	reasons = EnumNamesOf(pb.Reason_name, "REASON_")
	classes = EnumNamesOf(pb.Priority_name, "PRIORITY_")
)

// FromWire converts the decision about a call of model.
func FromWire(d *pb.Decision, model string) Decision {
	x := Decision{
		Reason:     reasons.Of(int32(d.GetReason())),
		Fallback:   d.GetRoute() == pb.Route_ROUTE_FALLBACK,
		Model:      model,
		RetryAfter: -1,

		Priority:    ClassFromWire(d.GetPriority()),
		Waited:      d.GetWaited().AsDuration(),
		WaitRefused: d.GetWaitRefused(),

		Limits: LimitsFromWire(d.GetLimits()),
	}
	x.MaxWait = MaxWaitOf(x.Limits)
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
			Credit:    l.GetCredit(),
			Shadow:    l.GetShadow(),
			Exceeded:  l.GetExceeded(),
			Hidden:    l.GetHidden(),
			PerModel:  l.GetPerModel(),
			Headroom:  l.GetHeadroom(),
			MaxWait:   l.GetMaxWait().AsDuration(),
		}
		if at := l.GetResetAt(); at != nil {
			out[i].ResetAt = at.AsTime()
		}
	}
	return out
}

// ClassFromWire returns the name of a class: "" if there is none.
func ClassFromWire(p pb.Priority) string {
	if p == pb.Priority_PRIORITY_UNSPECIFIED {
		return ""
	}
	return classes.Of(int32(p))
}
