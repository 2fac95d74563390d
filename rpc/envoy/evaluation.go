// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"context"
	"sync"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/envoy/config"
	"github.com/bucketring/bucketring/rpc/internal/explain"
)

// evaluation is one request that is being decided.
type evaluation struct {
	service     *Service
	rules       *ruleset
	request     *rls.RateLimitRequest
	descriptors []descriptor
}

// kind is how a descriptor is decided.
type kind uint8

const (
	kindNone      kind = iota // no rule: within its limit
	kindRule                  // counted by a rule
	kindOverride              // counted against the limit in the descriptor
	kindUnlimited             // by its rule
	kindReplaced              // its rule is replaced by that of another descriptor
	kindPolicy                // decided by the policy
	kindRejected              // invalid, and so over its limit
)

var kindNames = [...]string{"none", "rule", "override", "unlimited", "replaced", "policy", "rejected"}

// descriptor is a descriptor of a request and its status.
type descriptor struct {
	domain   string
	wire     *common.RateLimitDescriptor
	kind     kind
	rule     *config.Rule // of kindRule, kindUnlimited and kindReplaced
	counters *ruleCounters
	hits     int64
	giveBack bool     // the hits are given back
	shared   []string // as in config.Match
	limit    counterLimit
	call     policyCall // of kindPolicy
	problem  string     // why it was rejected

	status    rls.RateLimitResponse_DescriptorStatus
	over      bool // over its limit, even if the limit is in shadow mode
	exceeded  bool // over its limit according to the status
	cause     bool // a reason why the request is over its limit
	noRetry   bool // over, and waiting does not help
	dimension string
	decided   *explain.Decision // of kindPolicy: what its limits are over for; else nil
}

// counterLimit is the limit of a counter.
type counterLimit struct {
	amount int64
	window limiter.Window
	name   string
}

// correctsUsage reports whether a descriptor gives hits back, or charges what was used
// already: such a request is never refused because of overload.
func (ev *evaluation) correctsUsage() bool {
	for i := range ev.descriptors {
		if d := &ev.descriptors[i]; d.giveBack || d.call.charge {
			return true
		}
	}
	return false
}

// classify decides the kind of each descriptor.
func (s *Service) classify(rules *ruleset, r *rls.RateLimitRequest) *evaluation {
	ev := &evaluation{service: s, rules: rules, request: r, descriptors: make([]descriptor, len(r.GetDescriptors()))}
	replaced := map[string]bool{}
	for i, w := range r.GetDescriptors() {
		d := &ev.descriptors[i]
		d.domain, d.wire = r.GetDomain(), w
		d.hits, d.giveBack = addend(r, w), w.GetIsNegativeHits()
		switch {
		case s.isPolicyCall(w):
			d.kind = kindPolicy
			if err := s.parsePolicyCall(d); err != nil {
				d.reject(err.Error())
			}
			continue
		case !rules.config.Has(r.GetDomain()):
			continue
		case w.GetLimit() != nil:
			d.setOverride(w.GetLimit())
			d.counters = rules.override(r.GetDomain())
			continue
		}
		m := config.Find(rules.config, r.GetDomain(), w.GetEntries())
		if m.Rule == nil {
			continue
		}
		d.kind, d.rule, d.shared, d.counters = kindRule, m.Rule, m.Shared, rules.counters[m.Rule]
		d.limit = counterLimit{m.Rule.Amount, m.Rule.Window, m.Rule.Name}
		if m.Rule.Unlimited {
			d.kind = kindUnlimited
		}
		for _, name := range m.Rule.Replaces {
			replaced[name] = true
		}
	}
	for i := range ev.descriptors {
		if d := &ev.descriptors[i]; d.kind == kindRule && replaced[d.rule.Name] { // no rule replaces a rule without a name
			d.kind = kindReplaced
		}
	}
	return ev
}

// addend returns the hits of a descriptor: its own, which may be 0, or those of the
// request, where 0 means 1. More than a counter can take is reduced to the maximum,
// which is over any limit.
func addend(r *rls.RateLimitRequest, w *common.RateLimitDescriptor) int64 {
	if own := w.GetHitsAddend(); own != nil {
		return int64(min(own.GetValue(), limiter.MaxAmount))
	}
	return max(int64(r.GetHitsAddend()), 1)
}

// units are the units of limiter by Envoy's number. Envoy has two enumerations with the
// same numbers.
var units = [...]limiter.Unit{
	rls.RateLimitResponse_RateLimit_SECOND: limiter.UnitSecond,
	rls.RateLimitResponse_RateLimit_MINUTE: limiter.UnitMinute,
	rls.RateLimitResponse_RateLimit_HOUR:   limiter.UnitHour,
	rls.RateLimitResponse_RateLimit_DAY:    limiter.UnitDay,
	rls.RateLimitResponse_RateLimit_MONTH:  limiter.UnitMonth,
	rls.RateLimitResponse_RateLimit_YEAR:   limiter.UnitYear,
	rls.RateLimitResponse_RateLimit_WEEK:   limiter.UnitWeek,
}

// setOverride uses the limit in the descriptor, which comes from Envoy's configuration.
func (d *descriptor) setOverride(o *common.RateLimitDescriptor_RateLimitOverride) {
	d.kind = kindOverride
	w := limiter.Window{Multiple: 1}
	if n := o.GetUnit(); n > 0 && int(n) < len(units) {
		w.Unit = units[n]
	}
	if m := o.GetUnitMultiplier(); m != nil {
		w.Multiple = m.GetValue()
	}
	if w.Multiple == 0 {
		d.reject("limit.unit_multiplier: must be at least 1, got 0")
		return
	}
	if err := w.Validate(); err != nil {
		d.reject("limit." + err.Error())
		return
	}
	d.limit = counterLimit{int64(o.GetRequestsPerUnit()), w, ""}
}

func (d *descriptor) reject(problem string) {
	d.kind, d.problem = kindRejected, problem
	d.over, d.noRetry = true, true
}

// decide asks the counters and the policy, concurrently.
func (ev *evaluation) decide(ctx context.Context) error {
	counters, calls := ev.counters(), ev.policyCalls()
	switch {
	case len(calls) == 0:
		return ev.countHits(ctx, counters)
	case len(counters) == 0:
		return ev.decidePolicy(ctx, calls)
	}
	var wg sync.WaitGroup
	var policyErr error
	wg.Go(func() { policyErr = ev.decidePolicy(ctx, calls) })
	err := ev.countHits(ctx, counters)
	wg.Wait()
	if err != nil {
		return err
	}
	return policyErr
}
