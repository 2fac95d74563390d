// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"context"
	"sync"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/envoy/config"
)

// A question is one request on its way to an answer.
type question struct {
	service     *Service
	rules       *ruleset
	request     *rls.RateLimitRequest
	descriptors []descriptor
}

// kind is what a descriptor turned out to be.
type kind uint8

const (
	kindNone      kind = iota // no rule: within its limit
	kindRule                  // counted by a rule
	kindOverride              // counted against the limit that it brings along
	kindUnlimited             // by its rule
	kindReplaced              // by another descriptor's rule
	kindPolicy                // a call under the policy
	kindRefused               // it cannot be decided, and so is over its limit
)

var kindNames = [...]string{"none", "rule", "override", "unlimited", "replaced", "policy", "refused"}

// descriptor is one of a request, and what came of it.
type descriptor struct {
	wire    *common.RateLimitDescriptor
	kind    kind
	rule    *config.Rule // of kindRule, kindUnlimited and kindReplaced
	counts  *ruleCounters
	hits    int64
	giving  bool // hits are given back
	shared  []string
	limit   counterLimit
	mapped  mapped
	problem string // why it was refused

	status rls.RateLimitResponse_DescriptorStatus
	// over: it would be refused if nothing was in shadow. Exceeded: the status
	// says so.
	over, exceeded bool
	blamed         bool // the request is refused for it
	final          bool // over, and waiting does not help
	dimension      string
}

// counterLimit is what a counter is compared with.
type counterLimit struct {
	amount int64
	window limiter.Window
	name   string
}

// plan finds out what each descriptor is.
func (s *Service) plan(rules *ruleset, r *rls.RateLimitRequest) *question {
	q := &question{service: s, rules: rules, request: r, descriptors: make([]descriptor, len(r.GetDescriptors()))}
	replaced := map[string]bool{}
	for i, w := range r.GetDescriptors() {
		d := &q.descriptors[i]
		d.wire = w
		d.hits, d.giving = addend(r, w), w.GetIsNegativeHits()
		switch {
		case s.isMapped(w):
			d.kind = kindPolicy
			if err := s.mapDescriptor(d); err != nil {
				d.refuse(err.Error())
			}
			continue
		case !rules.config.Has(r.GetDomain()):
			continue
		case w.GetLimit() != nil:
			d.override(w.GetLimit())
			d.counts = rules.override(r.GetDomain())
			continue
		}
		m := config.Find(rules.config, r.GetDomain(), w.GetEntries())
		if m.Rule == nil {
			continue
		}
		d.kind, d.rule, d.shared, d.counts = kindRule, m.Rule, m.Shared, rules.counters[m.Rule]
		d.limit = counterLimit{m.Rule.Amount, m.Rule.Window, m.Rule.Name}
		if m.Rule.Unlimited {
			d.kind = kindUnlimited
		}
		for _, name := range m.Rule.Replaces {
			replaced[name] = true
		}
	}
	for i := range q.descriptors {
		if d := &q.descriptors[i]; d.kind == kindRule && replaced[d.rule.Name] { // no rule replaces ""
			d.kind = kindReplaced
		}
	}
	return q
}

// addend returns the hits of a descriptor: its own, which may be 0, or those of
// the request, where 0 means 1. What is more than a counter takes is brought down
// to that: it is over any limit all the same.
func addend(r *rls.RateLimitRequest, w *common.RateLimitDescriptor) int64 {
	if own := w.GetHitsAddend(); own != nil {
		return int64(min(own.GetValue(), limiter.MaxAmount))
	}
	return max(int64(r.GetHitsAddend()), 1)
}

// units are Envoy's. It has two enumerations, with the same numbers.
var units = [...]limiter.Unit{
	rls.RateLimitResponse_RateLimit_SECOND: limiter.UnitSecond,
	rls.RateLimitResponse_RateLimit_MINUTE: limiter.UnitMinute,
	rls.RateLimitResponse_RateLimit_HOUR:   limiter.UnitHour,
	rls.RateLimitResponse_RateLimit_DAY:    limiter.UnitDay,
	rls.RateLimitResponse_RateLimit_MONTH:  limiter.UnitMonth,
	rls.RateLimitResponse_RateLimit_YEAR:   limiter.UnitYear,
	rls.RateLimitResponse_RateLimit_WEEK:   limiter.UnitWeek,
}

// override takes the limit that a descriptor brings along. It comes from Envoy's
// own configuration.
func (d *descriptor) override(o *common.RateLimitDescriptor_RateLimitOverride) {
	d.kind = kindOverride
	w := limiter.Window{Multiple: 1}
	if n := o.GetUnit(); n > 0 && int(n) < len(units) {
		w.Unit = units[n]
	}
	if m := o.GetUnitMultiplier(); m != nil {
		w.Multiple = m.GetValue()
	}
	if w.Multiple == 0 {
		d.refuse("limit.unit_multiplier: must be at least 1, got 0")
		return
	}
	if err := w.Validate(); err != nil {
		d.refuse("limit." + err.Error())
		return
	}
	d.limit = counterLimit{int64(o.GetRequestsPerUnit()), w, ""}
}

func (d *descriptor) refuse(problem string) {
	d.kind, d.problem = kindRefused, problem
	d.over, d.final = true, true
}

// ask puts counters and the policy to work, at the same time.
func (q *question) ask(ctx context.Context) error {
	counted, called := q.counted(), q.called()
	switch {
	case len(called) == 0:
		return q.count(ctx, counted)
	case len(counted) == 0:
		return q.call(ctx, called)
	}
	var calling sync.WaitGroup
	var failed error
	calling.Go(func() { failed = q.call(ctx, called) })
	err := q.count(ctx, counted)
	calling.Wait()
	if err != nil {
		return err
	}
	return failed
}
