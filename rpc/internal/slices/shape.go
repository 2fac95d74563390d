// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"maps"
	"strings"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Request is a request that a slice may answer: a [pb.CheckRequest] or a [pb.ReserveRequest].
type Request interface {
	GetKey() string
	GetTier() string
	GetModel() string
	GetServiceTier() string
	GetRequestId() string
}

// shape is what the requests with one key have in common that a slice serves. Checks cost the
// same; what a reserve costs is in the tariff of its slice.
type shape struct {
	reserve                  bool
	tier, model, serviceTier string

	// Of checks only.
	requests, input, output int64
	costs                   map[string]int64
}

// shapeOf returns the shape of q, which shares the memory of q.
func shapeOf(q Request) shape {
	if c, ok := q.(*pb.CheckRequest); ok {
		return shapeOfCheck(c)
	}
	return shape{reserve: true, tier: q.GetTier(), model: q.GetModel(), serviceTier: q.GetServiceTier()}
}

// shapeOfCheck is [shapeOf] for a check, without a call by which q would escape to the heap.
func shapeOfCheck(q *pb.CheckRequest) shape {
	s := shape{
		tier: q.GetTier(), model: q.GetModel(), serviceTier: q.GetServiceTier(),
		requests: 1, input: q.GetInputTokens(), output: q.GetOutputTokens(), costs: q.GetCosts(),
	}
	if q.Requests != nil {
		s.requests = *q.Requests
	}
	return s
}

func (s *shape) equals(o *shape) bool {
	return s.reserve == o.reserve && s.input == o.input && s.output == o.output && s.requests == o.requests &&
		s.model == o.model && s.tier == o.tier && s.serviceTier == o.serviceTier &&
		len(s.costs) == len(o.costs) && (len(s.costs) == 0 || maps.Equal(s.costs, o.costs))
}

// clone returns a shape that shares no memory with s.
func (s *shape) clone() shape {
	c := *s
	c.tier, c.model, c.serviceTier, c.costs = strings.Clone(s.tier), strings.Clone(s.model), strings.Clone(s.serviceTier), nil
	if len(s.costs) > 0 {
		c.costs = cloneCosts(s.costs)
	}
	return c
}

// cloneCosts returns a map that shares no memory with costs.
func cloneCosts(costs map[string]int64) map[string]int64 {
	c := make(map[string]int64, len(costs))
	for name, n := range costs {
		c[strings.Clone(name)] = n
	}
	return c
}
