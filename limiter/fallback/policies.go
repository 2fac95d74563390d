// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/bucketring/bucketring/limiter"
)

// A Resolver is a policy. Resolve fills in the plan of a request at a time; its error is a
// [*limiter.FieldError]. A Resolver must be immutable, safe for concurrent use and
// comparable, which a pointer is. Equal resolvers are the same policy.
type Resolver interface {
	Resolve(now limiter.Time, key, tier, model string, plan *limiter.Plan) error
}

// Policies transforms policies for fallback. It is safe for concurrent use.
type Policies struct {
	catalog *limiter.Catalog
	latest  atomic.Pointer[Policy]
}

// New returns a Policies for an engine with that catalog. It adds one definition to the
// catalog for each limit and each size of the roster, and definitions are never
// removed. Equal ones are added once, so a member that leaves and joins adds nothing.
func New(catalog *limiter.Catalog) *Policies { return &Policies{catalog: catalog} }

// Policy returns base transformed for a roster of that many members; below 1 counts as
// 1. It caches the latest result, which then takes one atomic load and no allocation.
func (p *Policies) Policy(base Resolver, roster int) *Policy {
	roster = max(roster, 1)
	for {
		latest := p.latest.Load()
		if latest != nil && latest.roster == roster && latest.base == base {
			return latest
		}
		next := &Policy{catalog: p.catalog, base: base, roster: roster}
		if p.latest.CompareAndSwap(latest, next) {
			return next
		}
	}
}

// A Policy is a policy transformed for fallback. It is safe for concurrent use. Its
// plans are valid only for engines with the catalog of its [Policies].
type Policy struct {
	catalog *limiter.Catalog
	base    Resolver
	roster  int
	sets    sync.Map // *limiter.LimitSet of base -> transformed *limiter.LimitSet
}

// Roster returns the number of members that share the limits. It is at least 1.
func (p *Policy) Roster() int { return p.roster }

// Resolve fills in plan like the original policy, but transforms each limit as [Limit]
// does. It returns the errors of the original policy. A set of limits is compiled when
// it is first used; after that, Resolve takes no lock and does not allocate itself.
func (p *Policy) Resolve(now limiter.Time, key, tier, model string, plan *limiter.Plan) error {
	if err := p.base.Resolve(now, key, tier, model, plan); err != nil {
		return err
	}
	for i := range plan.Count {
		level := &plan.Levels[i]
		var err error
		if level.Limits, err = p.set(level.Limits); err != nil {
			return err
		}
		if level.Model, err = p.set(level.Model); err != nil {
			return err
		}
	}
	return nil
}

// set returns the transformed set of limits, or nil for nil.
func (p *Policy) set(of *limiter.LimitSet) (*limiter.LimitSet, error) {
	if of == nil {
		return nil, nil
	}
	if set, ok := p.sets.Load(of); ok {
		return set.(*limiter.LimitSet), nil
	}
	limits := make([]limiter.Limit, len(of.Limits()))
	for i, l := range of.Limits() {
		limits[i] = Limit(l, p.roster)
	}
	set, err := p.catalog.LimitSet(limits)
	if err != nil { // never for valid limits
		return nil, fmt.Errorf("compile limits for fallback: %w", err)
	}
	first, _ := p.sets.LoadOrStore(of, set)
	return first.(*limiter.LimitSet), nil
}
