// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"context"
	"math/bits"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// called returns the descriptors that are calls under the policy.
func (q *question) called() (list []*descriptor) {
	for i := range q.descriptors {
		if d := &q.descriptors[i]; d.kind == kindPolicy {
			list = append(list, d)
		}
	}
	return list
}

// call takes descriptors to the policy, each kind of question with one call.
func (q *question) call(ctx context.Context, list []*descriptor) error {
	var checks, looks, charges []*descriptor
	for _, d := range list {
		switch {
		case d.hits == 0:
			looks = append(looks, d)
		case d.mapped.charge:
			charges = append(charges, d)
		default:
			checks = append(checks, d)
		}
	}
	for _, step := range []struct {
		list []*descriptor
		ask  func(context.Context, []*descriptor) error
	}{{checks, q.check}, {looks, q.look}, {charges, q.charge}} {
		if len(step.list) == 0 {
			continue
		}
		if err := step.ask(ctx, step.list); err != nil {
			return err
		}
	}
	return nil
}

// check charges all limits of a call, or none.
func (q *question) check(ctx context.Context, list []*descriptor) error {
	results, err := q.askPolicy(ctx, list, (*descriptor).asCheck)
	if err != nil {
		return err
	}
	for i, r := range results {
		if err := list[i].decided(r.GetDecision(), r.GetError(), q.service.options.Now()); err != nil {
			return err
		}
	}
	return nil
}

// askPolicy sends one call for each descriptor.
func (q *question) askPolicy(ctx context.Context, list []*descriptor, item func(*descriptor) *pb.Item) ([]*pb.Result, error) {
	batch := &pb.BatchRequest{Items: make([]*pb.Item, len(list))}
	for i, d := range list {
		batch.Items[i] = item(d)
	}
	out, err := q.service.options.Policy.Batch(ctx, batch)
	return out.GetResults(), err
}

// asCheck is the descriptor as a call that was made.
func (d *descriptor) asCheck() *pb.Item {
	none := int64(0)
	r := &pb.CheckRequest{Key: d.mapped.key, Tier: d.mapped.tier, Model: d.mapped.model, Requests: &none}
	switch d.mapped.dimension {
	case string(limiter.Requests):
		r.Requests = &d.hits
	case inputTokens:
		r.InputTokens = d.hits
	case string(limiter.OutputTokens):
		r.OutputTokens = d.hits
	default:
		r.Costs = map[string]int64{d.mapped.dimension: d.hits}
	}
	return &pb.Item{Call: &pb.Item_Check{Check: r}}
}

// asPeek is the descriptor as a question.
func (d *descriptor) asPeek() *pb.Item {
	return &pb.Item{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: d.mapped.key, Tier: d.mapped.tier, Model: d.mapped.model}}}
}

// asReserve is the descriptor as a reservation of nothing.
func (d *descriptor) asReserve() *pb.Item {
	none := int64(0)
	return &pb.Item{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{
		Key: d.mapped.key, Tier: d.mapped.tier, Model: d.mapped.model, Requests: &none, MaxOutputTokens: &none,
	}}}
}

// look asks how limits stand. Being exactly at one is within it.
func (q *question) look(ctx context.Context, list []*descriptor) error {
	results, err := q.askPolicy(ctx, list, (*descriptor).asPeek)
	if err != nil {
		return err
	}
	for i, r := range results {
		if err := list[i].stands(r.GetLimits().GetLimits(), r.GetError(), q.service.options.Now()); err != nil {
			return err
		}
	}
	return nil
}

// charge charges whatever the limits say: a reservation of nothing, settled with
// the hits. A limit on calls at the same time, or one of 0, can refuse that; then
// the hits are told as those of a call that was made.
func (q *question) charge(ctx context.Context, list []*descriptor) error {
	held, err := q.askPolicy(ctx, list, (*descriptor).asReserve)
	if err != nil {
		return err
	}
	settles := &pb.BatchRequest{}
	var settled, made []*descriptor
	for i, r := range held {
		d, dec := list[i], r.GetDecision()
		switch {
		case dec == nil:
			if err := d.failed(r.GetError()); err != nil {
				return err
			}
			continue
		case dec.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED:
			made = append(made, d)
			continue
		}
		s := &pb.SettleRequest{Key: d.mapped.key, RequestId: dec.GetRequestId()}
		switch d.mapped.dimension {
		case inputTokens:
			s.InputTokens = &d.hits
		case string(limiter.OutputTokens):
			s.OutputTokens = &d.hits
		default:
			s.Costs = map[string]int64{d.mapped.dimension: d.hits}
		}
		settles.Items = append(settles.Items, &pb.Item{Call: &pb.Item_Settle{Settle: s}})
		settled = append(settled, d)
	}
	if len(settled) > 0 {
		out, err := q.service.options.Policy.Batch(ctx, settles)
		if err != nil {
			return err
		}
		for i, r := range out.GetResults() {
			if err := settled[i].stands(r.GetSettlement().GetLimits(), r.GetError(), q.service.options.Now()); err != nil {
				return err
			}
		}
	}
	return q.tell(ctx, made)
}

// tell charges calls that were made.
func (q *question) tell(ctx context.Context, made []*descriptor) error {
	if len(made) == 0 {
		return nil
	}
	batch := &pb.BatchRequest{}
	for _, d := range made {
		batch.Items = append(batch.Items, d.asCheck())
	}
	out, err := q.service.options.Policy.Charge(ctx, batch)
	if err != nil {
		return err
	}
	for i, r := range out.GetResults() {
		d, dec := made[i], r.GetDecision()
		if dec.GetOutcome() == pb.Outcome_OUTCOME_DENIED { // no room for the key
			err = d.decided(dec, nil, q.service.options.Now())
		} else {
			err = d.stands(dec.GetLimits(), r.GetError(), q.service.options.Now())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// failed deals with a call without an answer: what is wrong with it makes it over
// its limit, anything else is an error of the whole request.
func (d *descriptor) failed(e *pb.Error) error {
	if codes.Code(e.GetCode()) == codes.InvalidArgument {
		d.refuse(e.GetMessage())
		return nil
	}
	return grpcstatus.Error(codes.Code(e.GetCode()), e.GetMessage())
}

// decided makes a status of a decision.
func (d *descriptor) decided(dec *pb.Decision, e *pb.Error, now time.Time) error {
	if dec == nil {
		return d.failed(e)
	}
	d.over = dec.GetOutcome() == pb.Outcome_OUTCOME_DENIED
	d.exceeded = d.over
	d.final = d.over && dec.GetRetryAfter() == nil
	if dec.Binding != nil {
		d.bound(dec.GetLimits()[dec.GetBinding()], now)
	}
	if d.over {
		d.status.LimitRemaining, d.status.DurationUntilReset = 0, nil
		if after := dec.GetRetryAfter(); after != nil { // when this call fits, which is sooner
			d.status.DurationUntilReset = seconds(after.AsDuration())
		}
	}
	return nil
}

// stands makes a status of how limits stand.
func (d *descriptor) stands(limits []*pb.LimitState, e *pb.Error, now time.Time) error {
	if e != nil {
		return d.failed(e)
	}
	var tightest *pb.LimitState
	for _, l := range limits {
		if l.GetShadow() || l.GetDimension() == string(limiter.Concurrent) {
			continue
		}
		if tightest == nil || tighter(l, tightest) {
			tightest = l
		}
		d.over = d.over || l.GetDebt() > 0
	}
	d.exceeded = d.over
	if tightest != nil {
		d.bound(tightest, now)
	}
	return nil
}

// tighter reports whether a has more debt than b or, if neither has any, the
// smaller share left.
func tighter(a, b *pb.LimitState) bool {
	if a.GetDebt() > 0 || b.GetDebt() > 0 {
		return a.GetDebt() > b.GetDebt()
	}
	ahi, alo := bits.Mul64(uint64(a.GetRemaining()), uint64(max(b.GetCapacity(), 1)))
	bhi, blo := bits.Mul64(uint64(b.GetRemaining()), uint64(max(a.GetCapacity(), 1)))
	return ahi < bhi || ahi == bhi && alo < blo
}

// bound makes the status that of one limit.
func (d *descriptor) bound(l *pb.LimitState, now time.Time) {
	d.dimension = l.GetDimension()
	d.status.LimitRemaining = saturate(l.GetRemaining())
	if w := l.GetWindow(); w != nil {
		d.limit = counterLimit{l.GetLimit(), windowOf(w.AsDuration()), l.GetName()}
		d.status.CurrentLimit = wireLimit(d.limit)
	}
	if at := l.GetResetAt(); at != nil {
		d.status.DurationUntilReset = seconds(max(at.AsTime().Sub(now), 0))
	}
}

// windowOf returns the window of a limit in Envoy's units: the largest of which it
// is a multiple. Months and years, of which windows are as long as the present one
// is, are known by their length.
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
