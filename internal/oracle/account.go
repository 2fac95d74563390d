// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"math/big"
	"slices"

	"github.com/bucketring/bucketring/limiter"
)

// accountID identifies the state of a limit.
type accountID struct {
	scope     string
	dimension limiter.Dimension
	name      string
	model     string // "" for limits that all models share
}

// An account is the state of one limit: all charges ever made, in order.
type account struct {
	limit  limiter.Limit // in force now
	log    []*charge
	window window // fixed window: the latest one with a charge

	credit credit

	levels []*big.Rat // token bucket: the level right after log[i], for the first entries
	cached struct {   // the last result of windowAt
		limit limiter.Limit
		window
	}
}

// A charge is an entry of the log. A settle may correct its amount.
type charge struct {
	at     int64 // Mono
	wall   int64
	amount *big.Int
	lowest *big.Int      // the lowest amount so far
	limit  limiter.Limit // in force from this charge on
	window window        // fixed window: where it counts
	live   bool          // concurrency: the slot is held
}

// apply makes l the limit in force from now on.
func (a *account) apply(now limiter.Time, l limiter.Limit) {
	if a.limit != l {
		a.limit = l
		a.add(now, new(big.Int)) // an empty entry, because the refill rate changes now
	}
}

// add charges amount now.
func (a *account) add(now limiter.Time, amount *big.Int) *charge {
	c := &charge{at: now.Mono, wall: now.Wall, amount: amount, lowest: amount, limit: a.limit}
	if a.limit.Algorithm == limiter.FixedWindow {
		a.window = a.current(now)
		c.window = a.window
	}
	a.log = append(a.log, c)
	return c
}

// correct replaces the amount of a charge in the log.
func (a *account) correct(c *charge, amount *big.Int) {
	c.amount = amount
	if amount.Cmp(c.lowest) < 0 {
		c.lowest = amount
	}
	a.levels = a.levels[:min(len(a.levels), slices.Index(a.log, c))]
}

// capacity returns the most that one request can take.
func (a *account) capacity() *big.Rat {
	if a.limit.Burst != 0 {
		return rat(a.limit.Burst)
	}
	return rat(a.limit.Amount)
}

// used returns the usage that counts against the limit now.
func (a *account) used(now limiter.Time) *big.Rat {
	sum := new(big.Int)
	switch a.limit.Algorithm {
	case limiter.TokenBucket:
		return a.level(now.Mono)
	case limiter.SlidingWindow:
		newest := subWindow(a.limit, now.Mono)
		for _, c := range a.log {
			if newest-subWindow(a.limit, c.at) <= 64 {
				sum.Add(sum, c.amount)
			}
		}
	case limiter.FixedWindow:
		current := a.current(now)
		for _, c := range a.log {
			if c.window == current {
				sum.Add(sum, c.amount)
			}
		}
	case limiter.Concurrency:
		for _, c := range a.log {
			if c.live {
				sum.Add(sum, c.amount)
			}
		}
	}
	return ratOf(sum)
}

// level returns the level of a token bucket at mono by replaying the log.
func (a *account) level(mono int64) *big.Rat {
	for i := len(a.levels); i < len(a.log); i++ {
		level := new(big.Rat)
		if i > 0 {
			level = drained(a.levels[i-1], a.log[i-1], a.log[i].at)
		}
		a.levels = append(a.levels, level.Add(level, ratOf(a.log[i].amount)))
	}
	if len(a.log) == 0 {
		return new(big.Rat)
	}
	last := len(a.log) - 1
	return drained(a.levels[last], a.log[last], mono)
}

// drained returns the level at mono, after the refill since charge c left level.
func drained(level *big.Rat, c *charge, mono int64) *big.Rat {
	refill := new(big.Rat).Mul(rat(mono-c.at), big.NewRat(c.limit.Amount, int64(c.limit.Window)))
	left := new(big.Rat).Sub(level, refill)
	if left.Sign() < 0 {
		return new(big.Rat)
	}
	return left
}

// subWindow returns the number of the sub-window, 1/64 of a sliding window, that
// contains mono.
func subWindow(l limiter.Limit, mono int64) int64 { return mono / subWindowLength(l) }

func subWindowLength(l limiter.Limit) int64 { return (int64(l.Window) + 63) / 64 }

// current returns the fixed window in which charges count now. A window with charges
// stays open until its end, even if the limit changes or the clock steps back.
func (a *account) current(now limiter.Time) window {
	if a.window != (window{}) && now.Wall < a.window.end {
		return a.window
	}
	return a.windowAt(now.Wall)
}

// wait returns the nanoseconds until a cost within the capacity fits.
func (a *account) wait(now limiter.Time, cost *big.Rat) int64 {
	over := new(big.Rat).Add(a.used(now), cost)
	over.Sub(over, a.capacity())
	if over.Sign() <= 0 {
		return 0
	}
	switch a.limit.Algorithm {
	case limiter.TokenBucket:
		over.Mul(over, big.NewRat(int64(a.limit.Window), a.limit.Amount))
		return ceil(over).Int64()
	case limiter.SlidingWindow:
		newest, length := subWindow(a.limit, now.Mono), subWindowLength(a.limit)
		for sub := newest - 64; sub <= newest; sub++ { // released oldest first
			for _, c := range a.log {
				if subWindow(a.limit, c.at) == sub {
					over.Sub(over, ratOf(c.amount))
				}
			}
			if over.Sign() <= 0 {
				return (sub+65)*length - now.Mono
			}
		}
		panic("oracle: a cost within the limit must fit an empty window")
	case limiter.FixedWindow:
		return a.current(now).end - now.Wall
	default:
		return 1e9 // unknown: a slot may be freed at any time
	}
}

// windowAt returns the fixed window that contains wall.
func (a *account) windowAt(wall int64) window {
	if s := &a.cached; s.limit != a.limit || wall < s.start || wall >= s.end {
		s.limit, s.window = a.limit, windowAt(a.limit, wall)
	}
	return a.cached.window
}
