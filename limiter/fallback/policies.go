// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/bucketring/bucketring/limiter"
)

// A Resolver says which limits apply to a call, as a policy does: Resolve fills
// plan, and its error is a [*limiter.FieldError]. It is immutable and safe for
// concurrent use, and two of them are the same policy if they are equal: a
// pointer is.
type Resolver interface {
	Resolve(key, tier, model string, plan *limiter.Plan) error
}

// Policies makes the fallback of whatever policy is in force. It is safe for
// concurrent use.
type Policies struct {
	catalog *limiter.Catalog
	latest  atomic.Pointer[Policy]
}

// New returns the fallbacks for an engine with that catalog. Definitions live as
// long as their catalog: what is added is one for each limit and each size of
// the roster that it was used under. Equal ones are added once, so a member that
// comes and goes adds nothing.
func New(catalog *limiter.Catalog) *Policies { return &Policies{catalog: catalog} }

// Policy returns the fallback of base for a roster of that many members, below
// 1 as 1. Asked again for what it was asked last, it returns the same, with one
// atomic load and no allocation; a new base or roster forgets what was compiled
// for the one before.
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

// A Policy is a policy of which every limit decides without the owner. It is
// safe for concurrent use. Its plans are for engines with the catalog of its
// [Policies], and for no other.
type Policy struct {
	catalog *limiter.Catalog
	base    Resolver
	roster  int
	sets    sync.Map // *limiter.LimitSet of base -> ours
}

// Roster returns the number of members that share the limits, at least 1.
func (p *Policy) Roster() int { return p.roster }

// Resolve fills plan as the policy does of which this is the fallback, tier,
// rates and version included, with each limit as [Limit] makes it. The error is
// that policy's. Sets of limits are compiled when they are first seen; after
// that Resolve takes no lock and allocates no more than the policy.
func (p *Policy) Resolve(key, tier, model string, plan *limiter.Plan) error {
	if err := p.base.Resolve(key, tier, model, plan); err != nil {
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

// set returns the fallback of a set of limits; nil has none.
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
	if err != nil { // no valid limit leads here
		return nil, fmt.Errorf("limits without their owner: %w", err)
	}
	first, _ := p.sets.LoadOrStore(of, set)
	return first.(*limiter.LimitSet), nil
}
