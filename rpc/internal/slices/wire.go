// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"math"

	"github.com/bucketring/bucketring/internal/servicetier"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A request that an owner might reject is left to an owner, which says what is wrong. So no
// return has a reservation that is invalid.

// isID reports whether an owner takes a reservation with an id.
func isID(id string) bool {
	return text.Problem(id, 1, requestid.MaxBytes) == "" && !requestid.IsSlice(id) && !requestid.IsFallback(id) && !requestid.IsHeld(id)
}

// requestOf makes r the reserve q, which has a shape that an owner has admitted. It returns
// false if an owner might reject q.
func requestOf(q *pb.ReserveRequest, r *limiter.Request) bool {
	*r = limiter.Request{
		Key: q.GetKey(), Tier: q.GetTier(), Model: q.GetModel(), ServiceTier: q.GetServiceTier(), ID: q.GetRequestId(),
		Requests: numberOr(q.Requests, 1), InputTokens: q.GetInputTokens(), OutputTokens: numberOr(q.MaxOutputTokens, -1),
		Choices: numberOr(q.N, 1), MinOutputTokens: numberOr(q.MinOutputTokens, 0),
		EstimatedInput: q.GetEstimatedInput(), KnownInput: q.GetKnownInputTokens(),
	}
	output := numberOr(q.MaxOutputTokens, 0)
	ttl := numberOr(q.TtlSeconds, 1)
	valid := isAmount(r.Requests) && isAmount(r.InputTokens) && isAmount(output) && r.Choices >= 1 && isAmount(r.Choices) &&
		fitsWith(r.InputTokens, r.Choices, output) && ttl >= 1 && ttl <= limiter.MaxTTLSeconds &&
		isAmount(r.KnownInput) && (r.KnownInput == 0 || r.EstimatedInput) && r.KnownInput <= r.InputTokens
	if q.MinOutputTokens != nil && (r.MinOutputTokens < 1 || !isAmount(r.MinOutputTokens) || q.MaxOutputTokens != nil && r.MinOutputTokens > output) {
		return false
	}
	if !valid {
		return false
	}
	r.Costs, valid = costsOf(q.GetCosts())
	return valid
}

// usageOf returns the usage of a final settle of reservation id. It returns false if an owner
// might reject q.
func usageOf(q *pb.SettleRequest, id string) (u limiter.Usage, ok bool) {
	const absent = -1
	u = limiter.Usage{
		Key: q.GetKey(), ID: id, Final: true, ServiceTier: q.GetServiceTier(), Rejected: q.GetRejected(),
		InputTokens: numberOr(q.InputTokens, absent), CachedInputTokens: numberOr(q.CachedInputTokens, absent),
		CacheWriteTokens: numberOr(q.CacheWriteTokens, absent), CacheWrite1hTokens: numberOr(q.CacheWrite_1HTokens, absent),
		OutputTokens: numberOr(q.OutputTokens, absent), Images: numberOr(q.Images, absent), Searches: numberOr(q.Searches, absent),
	}
	for _, n := range [...]*int64{q.InputTokens, q.CachedInputTokens, q.CacheWriteTokens, q.CacheWrite_1HTokens, q.OutputTokens, q.Images, q.Searches} {
		if n != nil && !isAmount(*n) {
			return u, false
		}
	}
	parts := max(u.CachedInputTokens, 0) + max(u.CacheWriteTokens, 0) + max(u.CacheWrite1hTokens, 0)
	if u.InputTokens >= 0 && parts > u.InputTokens || !fitsWith(max(u.InputTokens, 0), 1, max(u.OutputTokens, 0)) {
		return u, false
	}
	if servicetier.Problem(u.ServiceTier) != "" {
		return u, false
	}
	u.Costs, ok = costsOf(q.GetCosts())
	return u, ok
}

// usedOf returns what the reservations of a slice have used that have ended, nil for nothing.
func usedOf(u *slice.Used) *pb.SliceUsage {
	if *u == (slice.Used{}) {
		return nil
	}
	return &pb.SliceUsage{InputTokens: u.Input, CachedInputTokens: u.Cached, OutputTokens: u.Output, SpendMicros: u.Spend}
}

func numberOr(n *int64, absent int64) int64 {
	if n == nil {
		return absent
	}
	return *n
}

func isAmount(n int64) bool { return n >= 0 && n <= limiter.MaxAmount }

// fitsWith reports whether input + n x output is an amount. All are amounts, and n is 1 or
// more.
func fitsWith(input, n, output int64) bool {
	return output <= (math.MaxInt64-input)/n && input+n*output <= limiter.MaxAmount
}

// costsOf returns costs in the operator's own dimensions. It returns false if one of them
// might be invalid.
func costsOf(costs map[string]int64) ([]limiter.Cost, bool) {
	if len(costs) == 0 {
		return nil, true
	}
	if len(costs) > limiter.MaxCosts {
		return nil, false
	}
	list := make([]limiter.Cost, 0, len(costs))
	for name, n := range costs {
		if text.Problem(name, 1, limiter.MaxCostNameBytes) != "" || !isAmount(n) {
			return nil, false
		}
		d := limiter.Dimension(name)
		if d.LikeBuiltin() != "" {
			return nil, false
		}
		list = append(list, limiter.Cost{Dimension: d, Amount: n})
	}
	return list, true
}
