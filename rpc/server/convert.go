// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// call is the scratch of one call, reused so that deciding allocates nothing.
type call struct {
	request  limiter.Request
	used     limiter.Usage
	plan     limiter.Plan
	decision limiter.Decision
	costs    []limiter.Cost

	reserving bool // the request is a Reserve

	count   limiter.CountRequest
	counted limiter.CountResult

	// Of an item of a stream.
	kind        kind
	reservation string // that it settles
}

// kind is what a call asks, as far as answers differ.
type kind uint8

const (
	asksCheck kind = iota
	asksReserve
	asksSettle // or cancel
	asksPeek
	asksCount
)

func (s *Service) begin() *call { return s.calls.Get().(*call) }

// end puts c back, without the strings of the request. The decision stays whole:
// the engine fills it anew, and keeps memory in it.
func (s *Service) end(c *call) {
	clear(c.costs)
	clear(c.decision.Limits)
	*c = call{costs: c.costs[:0], decision: c.decision}
	s.calls.Put(c)
}

// scope validates what every question has in common.
func (c *call) scope(key, tier, model string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := checkText("tier", tier, 0, maxNameBytes); err != nil {
		return err
	}
	if err := checkText("model", model, 0, maxNameBytes); err != nil {
		return err
	}
	c.request.Key, c.request.Tier, c.request.Model = key, tier, model
	return nil
}

// check validates r and fills c.request.
func (c *call) check(r *pb.CheckRequest) (err error) {
	if err := c.scope(r.GetKey(), r.GetTier(), r.GetModel()); err != nil {
		return err
	}
	q := &c.request
	if q.Requests, err = optional("requests", r.Requests, 1, 0, limiter.MaxAmount); err != nil {
		return err
	}
	if err := checkAmount("input_tokens", r.InputTokens); err != nil {
		return err
	}
	if err := checkAmount("output_tokens", r.OutputTokens); err != nil {
		return err
	}
	if err := checkOutput("output_tokens", r.InputTokens, 1, r.OutputTokens); err != nil {
		return err
	}
	if err := checkText("request_id", r.RequestId, 0, maxIDBytes); err != nil {
		return err
	}
	q.InputTokens, q.OutputTokens, q.ID = r.InputTokens, r.OutputTokens, r.RequestId
	q.Costs, err = c.ownCosts(r.Costs)
	return err
}

// reserve validates r and fills c.request, but for the output of a call that
// leaves it to the policy.
func (c *call) reserve(r *pb.ReserveRequest) (err error) {
	if err := c.scope(r.GetKey(), r.GetTier(), r.GetModel()); err != nil {
		return err
	}
	q := &c.request
	if q.Requests, err = optional("requests", r.Requests, 1, 0, limiter.MaxAmount); err != nil {
		return err
	}
	if err := checkAmount("input_tokens", r.InputTokens); err != nil {
		return err
	}
	if q.OutputTokens, err = optional("max_output_tokens", r.MaxOutputTokens, 0, 0, limiter.MaxAmount); err != nil {
		return err
	}
	if q.Choices, err = optional("n", r.N, 1, 1, maxChoices); err != nil {
		return err
	}
	if err := checkOutput("max_output_tokens", r.InputTokens, q.Choices, q.OutputTokens); err != nil {
		return err
	}
	if q.MinOutputTokens, err = optional("min_output_tokens", r.MinOutputTokens, 0, 1, limiter.MaxAmount); err != nil {
		return err
	}
	if r.MaxOutputTokens != nil && q.MinOutputTokens > q.OutputTokens {
		return wrong("min_output_tokens", decimal(q.MinOutputTokens), "must be at most max_output_tokens = "+decimal(q.OutputTokens))
	}
	ttl, err := optional("ttl_seconds", r.TtlSeconds, 0, 1, maxTTLSeconds)
	if err != nil {
		return err
	}
	if err := checkText("request_id", r.RequestId, 0, maxIDBytes); err != nil {
		return err
	}
	q.InputTokens, q.ID, q.TTL = r.InputTokens, r.RequestId, time.Duration(ttl)*time.Second
	q.Costs, err = c.ownCosts(r.Costs)
	return err
}

// usage validates r and fills c.used.
func (c *call) usage(r *pb.SettleRequest) (err error) {
	if err := checkReservation(r.GetKey(), r.GetRequestId()); err != nil {
		return err
	}
	u := &c.used
	const absent = -1
	if u.InputTokens, err = optional("input_tokens", r.InputTokens, absent, 0, limiter.MaxAmount); err != nil {
		return err
	}
	if u.CachedInputTokens, err = optional("cached_input_tokens", r.CachedInputTokens, absent, 0, limiter.MaxAmount); err != nil {
		return err
	}
	if u.OutputTokens, err = optional("output_tokens", r.OutputTokens, absent, 0, limiter.MaxAmount); err != nil {
		return err
	}
	if r.InputTokens != nil && u.CachedInputTokens > u.InputTokens {
		return wrong("cached_input_tokens", decimal(u.CachedInputTokens), "must be at most input_tokens = "+decimal(u.InputTokens)+", of which it is a part")
	}
	if err := checkOutput("output_tokens", max(u.InputTokens, 0), 1, max(u.OutputTokens, 0)); err != nil {
		return err
	}
	u.Key, u.ID = r.Key, r.RequestId
	u.Final = r.Final == nil || *r.Final
	u.Costs, err = c.ownCosts(r.Costs)
	return err
}

// checkReservation validates what names a reservation.
func checkReservation(key, id string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return checkText("request_id", id, 1, maxIDBytes)
}

// ownCosts validates costs and sorts them, so that the same request is always
// the same.
func (c *call) ownCosts(costs map[string]int64) ([]limiter.Cost, error) {
	if len(costs) > maxCosts {
		return nil, wrong("costs", decimal(int64(len(costs))), "must have at most 16 entries")
	}
	for name, amount := range costs {
		if err := checkCost(name, amount); err != nil {
			return nil, err
		}
		c.costs = append(c.costs, limiter.Cost{Dimension: limiter.Dimension(name), Amount: amount})
	}
	slices.SortFunc(c.costs, func(a, b limiter.Cost) int {
		return strings.Compare(string(a.Dimension), string(b.Dimension))
	})
	return c.costs, nil
}
