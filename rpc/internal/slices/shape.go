// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"fmt"
	"maps"
	"strings"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Request is a request that a slice may answer: a [pb.CheckRequest], a [pb.ReserveRequest] or a
// [pb.CountRequest].
type Request interface {
	GetKey() string
	GetRequestId() string
}

// shape is what the requests with one key have in common that a slice serves. Checks cost the
// same; what a reserve costs is in the tariff of its slice, and a count costs its hits.
type shape struct {
	kind                     kind
	tier, model, serviceTier string

	// Of checks only.
	requests, input, output int64
	costs                   map[string]int64

	// Of counts only.
	unit     pb.Unit
	multiple uint32
	limit    int64
}

// kind is that of the requests that a slice is for.
type kind uint8

const (
	checks kind = iota
	reserves
	counts
)

// shapeOf returns the shape of q, which shares the memory of q.
func shapeOf(q Request) shape {
	switch q := q.(type) {
	case *pb.CheckRequest:
		return shapeOfCheck(q)
	case *pb.CountRequest:
		return shapeOfCount(q)
	case *pb.ReserveRequest:
		return shape{kind: reserves, tier: q.GetTier(), model: q.GetModel(), serviceTier: q.GetServiceTier()}
	}
	panic(fmt.Sprintf("slices: %T is not a request", q))
}

// shapeOfCount is [shapeOf] for a count.
func shapeOfCount(q *pb.CountRequest) shape {
	return shape{kind: counts, unit: q.GetUnit(), multiple: max(q.GetUnitMultiplier(), 1), limit: q.GetLimit()}
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
	return s.kind == o.kind && s.input == o.input && s.output == o.output && s.requests == o.requests &&
		s.model == o.model && s.tier == o.tier && s.serviceTier == o.serviceTier &&
		s.limit == o.limit && s.unit == o.unit && s.multiple == o.multiple &&
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
