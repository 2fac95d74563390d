// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"slices"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// maxSpent bounds the limits of a return: far above those of any key.
const maxSpent = 1024

// sliceReturn is the request of a return, whose memory it shares.
type sliceReturn struct {
	key, id string
	spent   []int64
	kept    []limiter.Kept
	used    limiter.Used
}

// errRecall is the error of a recall that came to a service which holds no slices.
var errRecall = wrong("call", "slice_recall", "is for members that hold slices")

// SliceEnded returns the result of a return or a recall.
func SliceEnded() *pb.Result {
	return &pb.Result{Result: &pb.Result_SliceEnded{SliceEnded: &pb.SliceEnded{}}}
}

// returned validates r and fills x.ended.
func (x *scratch) returned(r *pb.SliceReturn) error {
	if err := checkKey(r.GetKey()); err != nil {
		return err
	}
	id := r.GetSlice()
	if err := checkText("slice", id, 1, maxIDBytes); err != nil {
		return err
	}
	if !requestid.IsSlice(id) {
		return wrongText("slice", id, "must begin with "+requestid.SlicePrefix)
	}
	if n := len(r.GetSpent()); n > maxSpent {
		return wrong("spent", decimal(int64(n)), "must have at most "+decimal(maxSpent)+" entries")
	}
	for _, n := range r.GetSpent() {
		if err := checkAmount("spent", n); err != nil {
			return err
		}
	}
	if err := checkAmount("calls", r.GetCalls()); err != nil {
		return err
	}
	kept, err := x.keptOf(r.GetKey(), r.GetKept())
	if err != nil {
		return err
	}
	used := limiter.Used{
		Input: r.GetUsed().GetInputTokens(), Cached: r.GetUsed().GetCachedInputTokens(),
		Output: r.GetUsed().GetOutputTokens(), Spend: r.GetUsed().GetSpendMicros(),
	}
	x.ended = sliceReturn{key: r.GetKey(), id: id, spent: r.GetSpent(), kept: kept, used: used}
	return nil
}

// endSlice ends a slice. One that has ended, or is not known, is not an error: its return
// came again, or after its lease, when all of it was charged.
func (s *Service) endSlice(now limiter.Time, x *scratch) error {
	err := s.engine.Return(now, x.ended.key, x.ended.id, x.ended.spent, x.ended.kept, x.ended.used, &x.decision)
	if errors.Is(err, limiter.ErrUnknownReservation) || errors.Is(err, limiter.ErrConflict) {
		return nil
	}
	return err
}

// Lendable reports whether the owner may lend a slice with the answer to call i: this member
// has just admitted it in full, it is a check, a reserve or hits on a counter, and it is neither
// a replay nor a repeat. rate is how often per second calls with its key were decided here, and
// share the part of the asker in thousandths; both are 0 if that is below [limiter.HotRate].
func (r *Results) Lendable(i int) (rate, share int64, ok bool) {
	one := &r.list[i]
	x := one.scratch
	if one.done != nil || x == nil {
		return 0, 0, false
	}
	if d := &x.counted; x.kind == call.Count {
		return d.Rate, d.AskerShare, !d.Over && !d.Replayed && !d.Waits && !x.count.Throttle.IsSet()
	}
	if x.kind != call.Check && x.kind != call.Reserve || x.decision.Outcome != limiter.Allowed || x.decision.Replayed || x.request.Force || x.wait.behind {
		return 0, 0, false
	}
	return x.decision.Rate, x.decision.AskerShare, true
}

// Lend lends a slice for calls like call i, for which Lendable must have returned true, and
// adds it to the answer. The caller sets the fields of l that are not results, but for
// Reserve.
// [Results.Change] of the call includes the charge of the slice. It returns false, and
// changes nothing, if the engine lends none.
func (s *Service) Lend(results *Results, i int, l *limiter.Loan) bool {
	one := &results.list[i]
	x, y := one.scratch, s.newScratch()
	defer s.release(y)
	// The answer keeps the limits as the call left them: what is lent is not used yet.
	var ok bool
	var err error
	if x.kind == call.Count {
		ok, err = s.engine.LendCount(s.now(), &x.count, l, &x.counted)
	} else {
		l.Reserve = x.kind == call.Reserve
		ok, err = s.engine.Lend(s.now(), &x.request, l, &y.decision)
	}
	if err != nil || !ok {
		return false // the partition was closed, or there is too little left
	}
	if x.kind != call.Count {
		x.decision.Change, x.decision.Large = y.decision.Change, y.decision.Large
	}
	one.slice = &pb.Slice{Id: l.ID, Amounts: slices.Clone(l.Amounts), LeaseNanos: int64(l.Lease)}
	if l.Tariff != nil {
		one.slice.Tariff = l.Tariff.Append(nil)
	}
	return true
}

// KeepDenials has [Service.Decide] leave calls that a limit has denied out of the metrics,
// until [Service.DecideAgain] or [Service.CountDenials], because they may be decided again.
func (r *Results) KeepDenials() { r.keepsDenials = true }

// isDenial reports whether a limit has denied a call, or hits on a counter wait, which other calls, by giving back what
// they were charged, may make room for.
func (x *scratch) isDenial() bool {
	if x.kind == call.Count {
		return x.counted.Waits
	}
	return x.decision.Outcome == limiter.Denied && x.decision.Reason == limiter.LimitExceeded && (x.kind == call.Check || x.kind == call.Reserve)
}

// Denied returns the limits of call i if it is a check or a reserve that one of them has
// denied, and was not counted yet, or if it is hits that were not counted while slices of their
// counter are lent, which must be decided again; otherwise nil. They are valid until the call is decided
// again or the results are released.
func (r *Results) Denied(i int) []limiter.LimitState {
	if one := &r.list[i]; one.uncounted {
		return one.scratch.limits()
	}
	return nil
}

// DecideAgain decides calls again that Denied has returned limits for, by their indexes, in
// their order. A denied call was charged nothing.
func (s *Service) DecideAgain(calls []call.Call, indexes []int, results *Results) {
	now, decided := s.now(), 0
	for _, i := range indexes {
		r, x := &results.list[i], s.newScratch()
		s.release(r.scratch)
		r.scratch, r.uncounted = nil, false
		if err := s.decide(now, x, &calls[i], true); err != nil {
			s.release(x)
			results.fail(i, err)
			continue
		}
		r.scratch = x
		if s.countDecision(x) {
			decided++
		}
	}
	s.observeSince(now, decided, results.trace)
}

// CountDenials counts the denials that were left out of the metrics, in which the service
// took that long.
func (s *Service) CountDenials(results *Results, took time.Duration) {
	for i := range results.list {
		if one := &results.list[i]; one.uncounted {
			one.uncounted = false
			if s.countDecision(one.scratch) {
				s.metrics.observe(s.route, took, 1, results.trace)
			}
		}
	}
}
