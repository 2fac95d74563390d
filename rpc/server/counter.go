// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Count is hits on a counter. The limit comes with the call and not from the policy,
// because the configuration of a proxy has it. The hits are counted even beyond the
// limit.
//
// Key and window identify a counter. Its limit may differ from call to call; its usage
// is kept. Counters and keys of policies share no state, even if they have the same name.
type Count struct {
	// Key is 1 to 4 segments separated by "/", none of them empty, 1 to 256 bytes
	// of printable UTF-8. Counters with the same first segment have the same owner
	// and share one lock, so the first segment should tell most of them apart.
	Key string
	// Limit is what may be used in each window, from 0 to [limiter.MaxAmount].
	Limit  int64
	Window limiter.Window
	// Hits are added to the counter, from 0 to [limiter.MaxAmount]. 0 only reads it
	// and makes no state.
	Hits int64
	// GiveBack subtracts the hits, down to 0. It is for hits that were counted in the
	// same window.
	GiveBack bool
}

// Counted is the answer to a [Count].
type Counted struct {
	// Err says why nothing was counted: an InvalidArgument status for a wrong
	// Count or a counter that cannot count so much, Unavailable if no member
	// could count it, Canceled if the caller cancelled it. The other fields mean nothing then.
	Err error

	// Over: Used is more than Limit, after the hits.
	Over bool
	// Full: there is no room for a new counter, so nothing was counted. Over is set
	// too.
	Full bool
	// Limit is the one that Used was compared with: that of the call, or, if the
	// route is fallback, this member's share of it.
	Limit     int64
	Used      int64 // in the window; more than Limit if over
	Remaining int64 // 0 if over
	// Reset is how long until the window ends; more than 0.
	Reset time.Duration

	Owner string // the member that counted
	Route pb.Route
}

// Fill sets r to the hits, as members send them.
func (q *Count) Fill(r *pb.CountRequest) {
	r.Key, r.Limit, r.Hits, r.GiveBack = q.Key, q.Limit, q.Hits, q.GiveBack
	r.Unit, r.UnitMultiplier = pb.Unit(q.Window.Unit), q.Window.Multiple
}

// counted returns the answer to hits that were counted here.
func (s *Service) counted(x *scratch) Counted {
	d, limit := &x.counted, x.count.Limit
	return Counted{
		Over: d.Over, Full: d.Full, Limit: limit, Used: d.Used, Remaining: max(limit-d.Used, 0),
		Reset: time.Duration(d.Reset), Owner: s.owner, Route: s.route,
	}
}

// countedBy returns the answer of a member.
func countedBy(r *pb.Counted) Counted {
	return Counted{
		Over: r.GetUsed() > r.GetLimit() || r.GetFull(), Full: r.GetFull(), Limit: r.GetLimit(), Used: r.GetUsed(), Remaining: max(r.GetLimit()-r.GetUsed(), 0),
		Reset: time.Duration(r.GetResetNanos()), Owner: r.GetOwner(), Route: r.GetRoute(),
	}
}

// hits validates r and fills x.count.
func (x *scratch) hits(r *pb.CountRequest, id string) error {
	throttle := limiter.Throttle{}
	if t := r.GetThrottle(); t != nil {
		throttle = limiter.Throttle{Capacity: t.GetCapacity(), Count: t.GetCount(), Period: time.Duration(t.GetPeriodNanos())}
		if err := throttle.Validate(); err != nil {
			return err
		}
		if r.GetGiveBack() {
			return wrong("give_back", "true", "is not for a throttle")
		}
	}
	if r.GetUnit() < 0 || r.GetUnit() > pb.Unit_UNIT_YEAR {
		return wrong("unit", decimal(int64(r.GetUnit())), "is unknown")
	}
	w := limiter.Window{Unit: limiter.Unit(r.GetUnit()), Multiple: r.GetUnitMultiplier()}
	if err := checkKey(r.GetKey()); err != nil {
		return err
	}
	if err := checkAmount("limit", r.GetLimit()); err != nil {
		return err
	}
	if !throttle.IsSet() {
		if err := w.Validate(); err != nil {
			return err
		}
	}
	if err := checkAmount("hits", r.GetHits()); err != nil {
		return err
	}
	if err := checkText("request_id", id, 0, maxIDBytes); err != nil {
		return err
	}
	if r.GetWindowEnd() < 0 {
		return wrong("window_end", decimal(r.GetWindowEnd()), "must not be negative")
	}
	x.count = limiter.CountRequest{
		Key: r.GetKey(), Window: w, Throttle: throttle, ID: id, Limit: r.GetLimit(), Hits: r.GetHits(), GiveBack: r.GetGiveBack(),
		Force: x.request.Force, WindowEnd: r.GetWindowEnd(),
		Try: x.tries && !throttle.IsSet(), Asker: x.request.Asker, TakesSlice: x.request.TakesSlice,
	}
	return nil
}

// limits returns a counter whose hits wait as the one limit that has denied them.
func (x *scratch) limits() []limiter.LimitState {
	if x.kind == call.Count {
		x.decision.Limits = append(x.decision.Limits[:0], limiter.LimitState{Name: "counter", Scope: x.count.Key, PerModel: true, Exceeded: true})
	}
	return x.decision.Limits
}

// fillCounted makes the answer of hits.
func (s *Service) fillCounted(p *pb.Counted, x *scratch) *pb.Counted {
	d := &x.counted
	p.Limit = x.count.Limit
	p.Used = d.Used
	p.Full = d.Full
	p.WindowEnd = d.End
	p.ResetNanos = d.Reset
	p.Owner = s.owner
	p.Route = s.route
	p.Replayed = d.Replayed
	p.Limited, p.Remaining, p.RetryAfterNanos = false, 0, 0
	if x.count.Throttle.IsSet() {
		p.Limited, p.Remaining, p.RetryAfterNanos = d.Over, d.Remaining, d.RetryAfter
	}
	return p
}
