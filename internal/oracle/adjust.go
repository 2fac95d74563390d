// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"math/big"

	"github.com/bucketring/bucketring/limiter"
)

// credit is a one-off credit of an account.
type credit struct {
	left, granted int64
	end           int64 // wall
}

// ofKey returns the limits of a request at the level of its key with a name, or all. The
// limits of all its levels are in force then.
func (o *Oracle) ofKey(now limiter.Time, r *limiter.Request, name string) (list []*assessment) {
	for _, a := range o.assess(&limiter.Request{Key: r.Key, Model: r.Model, Plan: r.Plan}, false) {
		a.account.apply(now, a.limit)
		if a.scope == r.Key && (name == "" || a.limit.Name == name) {
			list = append(list, a)
		}
	}
	return list
}

// Reset is [limiter.Engine.Reset] without slices. It returns what was used before of each
// limit. Nothing that was charged before counts any more, and corrections of it do not
// either.
func (o *Oracle) Reset(now limiter.Time, r *limiter.Request, name string) (before []int64) {
	now = o.advance(now)
	for _, a := range o.ofKey(now, r, name) {
		if a.limit.Algorithm == limiter.Concurrency {
			continue
		}
		x := a.account
		before = append(before, saturated(ceil(x.used(now))))
		x.log, x.levels = nil, nil
		for _, res := range o.reservations {
			if res.status != limiter.Held && res.status != limiter.Expired {
				continue
			}
			for _, h := range res.charges {
				if h.account == x && h.charge != nil {
					h.charge, h.first, h.charged = nil, new(big.Int), new(big.Int)
				}
			}
		}
	}
	return before
}

// Grant is [limiter.Engine.Grant]. It returns what was left of the credit before. A limit
// that counts calls that run, or denies nothing, gets none.
func (o *Oracle) Grant(now limiter.Time, r *limiter.Request, name string, units, lasts int64) (before int64) {
	now = o.advance(now)
	a := o.ofKey(now, r, name)[0]
	x := a.account
	if a.limit.Algorithm == limiter.Concurrency || a.limit.Shadow {
		return 0
	}
	if now.Wall >= x.credit.end {
		x.credit = credit{}
	}
	before = x.credit.left
	end := now.Wall + int64(limiter.CreditLasts)
	switch {
	case lasts > 0:
		end = now.Wall + lasts
	case a.limit.Algorithm == limiter.FixedWindow:
		end = x.current(now).end
	}
	if before > 0 {
		end = max(x.credit.end, end)
	}
	x.credit = credit{before + units, x.credit.granted + units, end}
	return before
}

// End is [limiter.Engine.End] of a reservation that is held.
func (o *Oracle) End(now limiter.Time, id string, charge limiter.EndCharge) error {
	now = o.advance(now)
	res := o.reservations[id]
	switch {
	case res == nil && o.checks[id] == nil:
		return limiter.ErrUnknownReservation
	case res == nil || res.status != limiter.Held:
		return limiter.ErrConflict
	}
	switch charge {
	case limiter.ChargeNothing:
		_, err := o.Cancel(now, res.request.Key, id)
		return err
	case limiter.ChargeEstimate:
		res.end(now.Mono, limiter.Expired)
	default:
		o.expire(now, res)
	}
	return nil
}

// credited returns the part of a cost for which the account has no room and that its credit
// covers; 0 if there is room, or the credit does not cover it.
func (a *assessment) credited(now limiter.Time, cost *big.Int) *big.Int {
	lacks, _ := a.covers(now, cost)
	return lacks
}

// covers reports whether the credit covers what the account has no room for. A limit of 0
// has no room for a cost of 0, which needs some credit.
func (a *assessment) covers(now limiter.Time, cost *big.Int) (lacks *big.Int, ok bool) {
	x := a.account
	if a.request.Force || a.limit.Closed || a.limit.Algorithm == limiter.Concurrency || now.Wall >= x.credit.end || x.credit.left == 0 {
		return new(big.Int), false
	}
	room := floor(new(big.Rat).Sub(roomFor(a.limit, x.capacity(), a.request), x.used(now)))
	if room.Sign() < 0 {
		room = new(big.Int)
	}
	lacks = new(big.Int).Sub(cost, room)
	if lacks.Sign() <= 0 {
		return new(big.Int), a.limit.Amount == 0
	}
	if lacks.Cmp(big.NewInt(x.credit.left)) > 0 {
		return new(big.Int), false
	}
	return lacks, true
}

// refund gives back to the credit what a lower amount of a charge does not need of it.
func (h *heldCharge) refund(now limiter.Time, amount *big.Int) {
	back := new(big.Int).Sub(h.target, amount)
	if back.Cmp(h.credit) > 0 {
		back = h.credit
	}
	if back.Sign() <= 0 {
		return
	}
	h.credit = new(big.Int).Sub(h.credit, back)
	if c := &h.account.credit; now.Wall < c.end && h.target.Cmp(h.first) <= 0 {
		c.left = min(c.left+back.Int64(), c.granted)
	}
}
