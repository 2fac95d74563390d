// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/servicetier"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// scratch is the memory of one call while it is decided. It is pooled, so that
// deciding allocates nothing.
type scratch struct {
	kind     call.Kind
	callerID string // of a settle or cancel: the id that the caller sent

	request  limiter.Request
	used     limiter.Usage
	plan     limiter.Plan
	decision limiter.Decision
	costs    []limiter.Cost

	count   limiter.CountRequest
	counted limiter.CountResult
	tries   bool // a count does: [limiter.CountRequest].Try

	ended sliceReturn
	admin admin

	wait waitState // of a check or a reserve
}

func (s *Service) newScratch() *scratch { return s.scratches.Get().(*scratch) }

// release puts x back into the pool, without the strings of the request. It keeps the
// decision, whose memory the engine reuses. It clears what a call of its kind has set,
// because clearing all of a scratch costs more than counting a hit.
func (s *Service) release(x *scratch) {
	x.callerID, x.tries, x.wait = "", false, waitState{}
	x.request.Force, x.request.Attempt, x.request.Asker, x.request.TakesSlice = false, 0, 0, false
	switch x.kind {
	case call.Count:
		x.count, x.counted = limiter.CountRequest{}, limiter.CountResult{}
	case call.SliceReturn:
		x.ended = sliceReturn{}
	case call.Admin:
		x.admin, x.request, x.plan = admin{}, limiter.Request{}, limiter.Plan{}
	case call.Settle, call.Cancel:
		x.used = limiter.Usage{}
		if x.request.Key != "" { // of a check to withdraw
			x.request, x.plan = limiter.Request{}, limiter.Plan{}
		}
	default:
		x.request, x.plan = limiter.Request{}, limiter.Plan{}
	}
	clear(x.costs)
	x.costs = x.costs[:0]
	clear(x.decision.Limits)
	x.kind = 0
	s.scratches.Put(x)
}

// validate checks the request of c and fills x with it. Nothing is looked up.
func (x *scratch) validate(c *call.Call) error {
	if c.Err != nil {
		return c.Err
	}
	x.kind, x.callerID = c.Kind, ""
	x.request.Force, x.request.Attempt, x.request.Asker, x.request.TakesSlice = c.Replay, c.Attempt, c.Asker, c.TakesSlice
	switch c.Kind {
	case call.Check:
		return x.check(c.Check(), c.RequestID)
	case call.Reserve:
		return x.reserve(c.Reserve(), c.RequestID)
	case call.Settle:
		x.callerID = c.CallerID()
		return x.usage(c.Settle(), c.RequestID)
	case call.Cancel:
		x.callerID = c.CallerID()
		if c.Withdrawn != nil {
			return x.withdrawn(c)
		}
		x.used.Key, x.used.ID = c.Key, c.RequestID
		return checkReservation(c.Key, c.RequestID)
	case call.Peek:
		q := c.Peek()
		return x.scope(q.GetKey(), q.GetTier(), q.GetModel())
	case call.SliceReturn:
		return x.returned(c.SliceReturn())
	case call.SliceRecall:
		return errRecall
	case call.Admin:
		return x.operator(c.Admin())
	}
	return x.hits(c.Count(), c.RequestID)
}

// scope validates the fields that checks, reserves and peeks have in common.
func (x *scratch) scope(key, tier, model string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := checkText("tier", tier, 0, maxNameBytes); err != nil {
		return err
	}
	if err := checkText("model", model, 0, maxNameBytes); err != nil {
		return err
	}
	x.request.Key, x.request.Tier, x.request.Model = key, tier, model
	return nil
}

// check validates r and fills x.request.
func (x *scratch) check(r *pb.CheckRequest, id string) (err error) {
	if err := x.scope(r.GetKey(), r.GetTier(), r.GetModel()); err != nil {
		return err
	}
	q := &x.request
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
	if err := checkText("request_id", id, 0, maxIDBytes); err != nil {
		return err
	}
	if err := checkServiceTier(r.ServiceTier); err != nil {
		return err
	}
	q.InputTokens, q.OutputTokens, q.ID, q.ServiceTier = r.InputTokens, r.OutputTokens, id, r.ServiceTier
	if err := x.waiting(r.Priority, r.MaxWait); err != nil {
		return err
	}
	q.Costs, err = x.ownCosts(r.Costs)
	return err
}

// withdrawn validates the check that c withdraws and fills x.request.
func (x *scratch) withdrawn(c *call.Call) error {
	if key := c.Withdrawn.GetKey(); key != c.Key {
		return wrongText("withdrawn.key", key, "must be the key of the cancel")
	}
	return x.check(c.Withdrawn, c.RequestID)
}

// reserve validates r and fills x.request.
func (x *scratch) reserve(r *pb.ReserveRequest, id string) (err error) {
	if err := x.scope(r.GetKey(), r.GetTier(), r.GetModel()); err != nil {
		return err
	}
	q := &x.request
	if q.Requests, err = optional("requests", r.Requests, 1, 0, limiter.MaxAmount); err != nil {
		return err
	}
	if err := checkAmount("input_tokens", r.InputTokens); err != nil {
		return err
	}
	if q.OutputTokens, err = optional("max_output_tokens", r.MaxOutputTokens, 0, 0, limiter.MaxAmount); err != nil {
		return err
	}
	if q.Choices, err = optional("n", r.N, 1, 1, limiter.MaxAmount); err != nil {
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
	if err := checkText("request_id", id, 0, maxIDBytes); err != nil {
		return err
	}
	if err := checkServiceTier(r.ServiceTier); err != nil {
		return err
	}
	q.InputTokens, q.ID, q.TTL, q.ServiceTier = r.InputTokens, id, time.Duration(ttl)*time.Second, r.ServiceTier
	q.EstimatedInput, q.KnownInput = r.EstimatedInput, r.KnownInputTokens
	switch {
	case q.KnownInput < 0:
		return wrong("known_input_tokens", decimal(q.KnownInput), "must not be negative")
	case q.KnownInput > 0 && !q.EstimatedInput:
		return wrong("known_input_tokens", decimal(q.KnownInput), "is for estimated_input only")
	case q.KnownInput > q.InputTokens:
		return wrong("known_input_tokens", decimal(q.KnownInput), "must be at most input_tokens = "+decimal(q.InputTokens))
	}
	if r.MaxOutputTokens == nil {
		q.OutputTokens = -1 // the policy's default
	}
	if err := x.waiting(r.Priority, r.MaxWait); err != nil {
		return err
	}
	q.Costs, err = x.ownCosts(r.Costs)
	return err
}

// usage validates r and fills x.used.
func (x *scratch) usage(r *pb.SettleRequest, id string) (err error) {
	if err := checkReservation(r.GetKey(), id); err != nil {
		return err
	}
	u := &x.used
	const absent = -1
	for _, f := range [...]struct {
		name string
		from *int64
		to   *int64
	}{
		{"input_tokens", r.InputTokens, &u.InputTokens},
		{"cached_input_tokens", r.CachedInputTokens, &u.CachedInputTokens},
		{"cache_write_tokens", r.CacheWriteTokens, &u.CacheWriteTokens},
		{"cache_write_1h_tokens", r.CacheWrite_1HTokens, &u.CacheWrite1hTokens},
		{"output_tokens", r.OutputTokens, &u.OutputTokens},
		{"images", r.Images, &u.Images},
		{"searches", r.Searches, &u.Searches},
	} {
		if *f.to, err = optional(f.name, f.from, absent, 0, limiter.MaxAmount); err != nil {
			return err
		}
	}
	if r.InputTokens != nil {
		if err := checkParts(u); err != nil {
			return err
		}
	}
	if err := checkServiceTier(r.ServiceTier); err != nil {
		return err
	}
	if err := checkOutput("output_tokens", max(u.InputTokens, 0), 1, max(u.OutputTokens, 0)); err != nil {
		return err
	}
	u.Key, u.ID = r.Key, id
	u.Final = r.Final == nil || *r.Final
	u.ServiceTier, u.Rejected = r.ServiceTier, r.GetRejected()
	u.Costs, err = x.ownCosts(r.Costs)
	return err
}

func checkServiceTier(name string) error {
	if problem := servicetier.Problem(name); problem != "" {
		return wrongText("service_tier", name, problem)
	}
	return nil
}

// checkParts validates the parts of the input, which is given.
func checkParts(u *limiter.Usage) error {
	const whole = ", of which it is a part"
	cached, write, write1h := max(u.CachedInputTokens, 0), max(u.CacheWriteTokens, 0), max(u.CacheWrite1hTokens, 0)
	switch {
	case cached > u.InputTokens:
		return wrong("cached_input_tokens", decimal(cached), "must be at most input_tokens = "+decimal(u.InputTokens)+whole)
	case cached+write > u.InputTokens:
		return wrong("cache_write_tokens", decimal(write), "with cached_input_tokens must be at most input_tokens = "+decimal(u.InputTokens)+whole)
	case cached+write+write1h > u.InputTokens:
		return wrong("cache_write_1h_tokens", decimal(write1h), "with cached_input_tokens and cache_write_tokens must be at most input_tokens = "+decimal(u.InputTokens)+whole)
	}
	return nil
}

// checkReservation validates the key and the id of a reservation.
func checkReservation(key, id string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return checkText("request_id", id, 1, maxIDBytes)
}

// ownCosts validates costs and sorts them, so that the same request is always
// the same.
func (x *scratch) ownCosts(costs map[string]int64) ([]limiter.Cost, error) {
	if len(costs) > maxCosts {
		return nil, wrong("costs", decimal(int64(len(costs))), "must have at most 16 entries")
	}
	for name, amount := range costs {
		if err := checkCost(name, amount); err != nil {
			return nil, err
		}
		x.costs = append(x.costs, limiter.Cost{Dimension: limiter.Dimension(name), Amount: amount})
	}
	slices.SortFunc(x.costs, func(a, b limiter.Cost) int {
		return strings.Compare(string(a.Dimension), string(b.Dimension))
	})
	return x.costs, nil
}
