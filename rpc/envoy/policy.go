// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

// policyCalls returns the descriptors that the policy decides.
func (ev *evaluation) policyCalls() (list []*descriptor) {
	for i := range ev.descriptors {
		if d := &ev.descriptors[i]; d.kind == kindPolicy {
			list = append(list, d)
		}
	}
	return list
}

// decidePolicy asks the policy about descriptors, with one batch for each kind of call.
func (ev *evaluation) decidePolicy(ctx context.Context, list []*descriptor) error {
	var checks, peeks, charges []*descriptor
	for _, d := range list {
		switch {
		case d.hits == 0:
			peeks = append(peeks, d)
		case d.call.charge:
			charges = append(charges, d)
		default:
			checks = append(checks, d)
		}
	}
	for _, batch := range []struct {
		list   []*descriptor
		decide func(context.Context, []*descriptor) error
	}{{checks, ev.check}, {peeks, ev.peek}, {charges, ev.charge}} {
		if len(batch.list) == 0 {
			continue
		}
		if err := batch.decide(ctx, batch.list); err != nil {
			return err
		}
	}
	return nil
}

// check charges all limits of each call, or none.
func (ev *evaluation) check(ctx context.Context, list []*descriptor) error {
	results, err := ev.batch(ctx, list, (*descriptor).checkItem)
	if err != nil {
		return err
	}
	for i, r := range results {
		if err := list[i].setDecision(r.GetDecision(), r.GetError(), ev.service.options.Now()); err != nil {
			return err
		}
	}
	return nil
}

// batch sends one call for each descriptor.
func (ev *evaluation) batch(ctx context.Context, list []*descriptor, item func(*descriptor) *pb.Item) ([]*pb.Result, error) {
	out, err := ev.service.options.Policy.Batch(ctx, batchOf(list, item))
	return out.GetResults(), err
}

func batchOf(list []*descriptor, item func(*descriptor) *pb.Item) *pb.BatchRequest {
	b := &pb.BatchRequest{Items: make([]*pb.Item, len(list))}
	for i, d := range list {
		b.Items[i] = item(d)
	}
	return b
}

// noWait is the MaxWait of calls that do not wait in line: Envoy waits for an answer for a few
// milliseconds only.
func noWait() *durationpb.Duration { return &durationpb.Duration{} }

// checkItem converts the descriptor to a check.
func (d *descriptor) checkItem() *pb.Item {
	none := int64(0)
	r := &pb.CheckRequest{Key: d.call.key, Tier: d.call.tier, Model: d.call.model, Requests: &none, MaxWait: noWait()}
	switch d.call.dimension {
	case string(limiter.Requests):
		r.Requests = &d.hits
	case inputTokens:
		r.InputTokens = d.hits
	case string(limiter.OutputTokens):
		r.OutputTokens = d.hits
	default:
		r.Costs = map[string]int64{d.call.dimension: d.hits}
	}
	return &pb.Item{Call: &pb.Item_Check{Check: r}}
}

// peekItem converts the descriptor to a peek.
func (d *descriptor) peekItem() *pb.Item {
	return &pb.Item{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: d.call.key, Tier: d.call.tier, Model: d.call.model}}}
}

// reserveItem converts the descriptor to a reservation of nothing.
func (d *descriptor) reserveItem() *pb.Item {
	none := int64(0)
	return &pb.Item{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{
		Key: d.call.key, Tier: d.call.tier, Model: d.call.model, Requests: &none, MaxOutputTokens: &none, MaxWait: noWait(),
	}}}
}

// settleItem converts the descriptor to the settle of its reservation.
func (d *descriptor) settleItem(id string) *pb.Item {
	s := &pb.SettleRequest{Key: d.call.key, RequestId: id}
	switch d.call.dimension {
	case inputTokens:
		s.InputTokens = &d.hits
	case string(limiter.OutputTokens):
		s.OutputTokens = &d.hits
	default:
		s.Costs = map[string]int64{d.call.dimension: d.hits}
	}
	return &pb.Item{Call: &pb.Item_Settle{Settle: s}}
}

// peek reads the limits of calls without hits. A limit that is exactly used up is not
// exceeded.
func (ev *evaluation) peek(ctx context.Context, list []*descriptor) error {
	results, err := ev.batch(ctx, list, (*descriptor).peekItem)
	if err != nil {
		return err
	}
	for i, r := range results {
		if err := list[i].setLimits(r.GetLimits().GetLimits(), r.GetError(), ev.service.options.Now()); err != nil {
			return err
		}
	}
	return nil
}

// charge charges calls even beyond their limits: with a reservation of nothing that is
// settled with the hits. A concurrency limit or a limit of 0 can deny the reservation;
// chargeAnyway then charges the hits.
func (ev *evaluation) charge(ctx context.Context, list []*descriptor) error {
	reserved, err := ev.batch(ctx, list, (*descriptor).reserveItem)
	if err != nil {
		return err
	}
	settles := &pb.BatchRequest{}
	var settled, denied []*descriptor
	for i, r := range reserved {
		d, dec := list[i], r.GetDecision()
		switch {
		case dec == nil:
			if err := d.setError(r.GetError()); err != nil {
				return err
			}
		case dec.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED:
			denied = append(denied, d)
		default:
			settles.Items, settled = append(settles.Items, d.settleItem(dec.GetRequestId())), append(settled, d)
		}
	}
	if len(settled) > 0 {
		out, err := ev.service.options.Policy.Batch(ctx, settles)
		if err != nil {
			return err
		}
		for i, r := range out.GetResults() {
			if err := settled[i].setLimits(r.GetSettlement().GetLimits(), r.GetError(), ev.service.options.Now()); err != nil {
				return err
			}
		}
	}
	return ev.chargeAnyway(ctx, denied)
}

// chargeAnyway charges calls as calls that have run.
func (ev *evaluation) chargeAnyway(ctx context.Context, list []*descriptor) error {
	if len(list) == 0 {
		return nil
	}
	out, err := ev.service.options.Policy.Charge(ctx, batchOf(list, (*descriptor).checkItem))
	if err != nil {
		return err
	}
	for i, r := range out.GetResults() {
		d, dec := list[i], r.GetDecision()
		if dec.GetOutcome() == pb.Outcome_OUTCOME_DENIED { // table_full or ids_full
			err = d.setDecision(dec, nil, ev.service.options.Now())
		} else {
			err = d.setLimits(dec.GetLimits(), r.GetError(), ev.service.options.Now())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setError handles a call without a decision. An invalid call is over its limit; any
// other error is one of the whole request.
func (d *descriptor) setError(e *pb.Error) error {
	if codes.Code(e.GetCode()) == codes.InvalidArgument {
		d.reject(e.GetMessage())
		return nil
	}
	return grpcstatus.Error(codes.Code(e.GetCode()), e.GetMessage())
}

// setDecision sets the status from a decision.
func (d *descriptor) setDecision(dec *pb.Decision, e *pb.Error, now time.Time) error {
	if dec == nil {
		return d.setError(e)
	}
	x := explain.FromWire(dec, d.call.model)
	d.over = dec.GetOutcome() == pb.Outcome_OUTCOME_DENIED
	d.exceeded = d.over
	d.noRetry = d.over && dec.GetRetryAfter() == nil
	if !d.over {
		if shown := x.Shown(); shown != nil {
			d.setLimit(shown, now)
		}
		return nil
	}
	d.decided = &x
	if l := x.Binding; l != nil && !l.Hidden {
		d.setLimit(l, now)
	}
	d.status.DurationUntilReset = nil
	if after := dec.GetRetryAfter(); after != nil { // when this call fits, which is before the limit resets
		d.status.DurationUntilReset = ceilSeconds(after.AsDuration())
	}
	return nil
}

// setLimits sets the status from the tightest limit. It is over if one was used beyond its
// capacity, hidden or not.
func (d *descriptor) setLimits(limits []*pb.LimitState, e *pb.Error, now time.Time) error {
	if e != nil {
		return d.setError(e)
	}
	x := explain.Decision{Model: d.call.model, RetryAfter: -1, Limits: explain.LimitsFromWire(limits)}
	var shown *explain.Limit
	for i := range x.Limits {
		l := &x.Limits[i]
		if l.Shadow || l.Dimension == explain.Concurrent {
			continue
		}
		if x.Binding == nil || explain.Tighter(l, x.Binding) {
			x.Binding = l
		}
		if !l.Hidden && (shown == nil || explain.Tighter(l, shown)) {
			shown = l
		}
		d.over = d.over || l.Debt > 0
	}
	d.exceeded = d.over
	if d.over {
		x.Reason = "limit_exceeded"
		d.decided = &x
		if x.Binding.Hidden {
			d.status.DurationUntilReset = ceilSeconds(x.Binding.UntilReset(now))
			return nil
		}
	}
	if shown != nil {
		d.setLimit(shown, now)
	}
	return nil
}

// setLimit sets the status from one limit.
func (d *descriptor) setLimit(l *explain.Limit, now time.Time) {
	d.status.LimitRemaining = saturate(l.Remaining)
	if l.Window > 0 {
		d.limit = counterLimit{l.Limit, windowOf(l.Window), l.Name}
		d.status.CurrentLimit = wireLimit(d.limit)
	}
	if !l.ResetAt.IsZero() {
		d.status.DurationUntilReset = ceilSeconds(l.UntilReset(now))
	}
}

// windowOf converts the length of a window to a multiple of the largest unit that
// divides it. Months and years differ in length, so a range of lengths is one of them.
func windowOf(d time.Duration) limiter.Window {
	const day = 24 * time.Hour
	switch {
	case d >= 365*day && d <= 366*day+time.Hour:
		return limiter.Window{Unit: limiter.UnitYear, Multiple: 1}
	case d >= 28*day-time.Hour && d <= 31*day+time.Hour:
		return limiter.Window{Unit: limiter.UnitMonth, Multiple: 1}
	}
	for _, u := range []struct {
		unit   limiter.Unit
		length time.Duration
	}{{limiter.UnitWeek, 7 * day}, {limiter.UnitDay, day}, {limiter.UnitHour, time.Hour}, {limiter.UnitMinute, time.Minute}, {limiter.UnitSecond, time.Second}} {
		if n := d / u.length; n > 0 && d%u.length == 0 && n <= maxUint32 {
			return limiter.Window{Unit: u.unit, Multiple: uint32(n)}
		}
	}
	return limiter.Window{} // unknown
}
