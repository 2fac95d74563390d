// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// isUnavailable reports whether a member did not decide.
func isUnavailable(result *pb.Result) bool {
	switch code(result) {
	case codes.Unavailable, codes.Unimplemented, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}

// moved asks the call again: its owner has changed, or does not answer.
func (w *waiting) moved() {
	if w.fromMember {
		w.end(redirectTo(w.router.ownerOf(w.router.table.Load(), w.call.Partition)))
		return
	}
	w.again()
}

// again asks the call as any other, which finds its owner, and has it wait there if it may. It
// goes on until the time of the call is over.
func (w *waiting) again() {
	r := w.router
	if w.restarts++; w.restarts > 1 && !w.pause(againPause) {
		w.end(w.lastDenial())
		return
	}
	for pause := againPause; !w.hasGone(); pause = min(2*pause, maxAgainPause) {
		began := r.owners.Clock()
		result, mayWait, unanswered := w.askOnce()
		if unanswered {
			if w.miss(); w.hasGone() { // it goes on as the same attempt, which nobody withdraws meanwhile
				break
			}
		}
		w.boundBy(result.GetDecision())
		left := w.until - r.owners.Clock()
		d := result.GetDecision()
		switch {
		case mayWait:
			w.keepDenial(result)
			if left > 0 {
				w.ask()
				return
			}
		case isUnavailable(result), code(result) == codes.ResourceExhausted, d.GetReason() == pb.Reason_REASON_OWNER_UNREACHABLE:
			if left > pause && w.pause(pause) {
				continue
			}
		}
		w.addWaited(result, began)
		w.end(result)
		return
	}
	w.withdraw(w.missedAttempts())
}

// pause waits for a moment, unless the caller goes. It returns false if this member leaves.
func (w *waiting) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-w.gone:
		return true
	case <-w.router.drain:
		return false
	}
}

// askOnce asks the call as one that does not wait. If it is unanswered, a member may have charged it
// that did not say so.
func (w *waiting) askOnce() (result *pb.Result, mayWait, unanswered bool) {
	r := w.router
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	calls := []call.Call{w.call}
	results := r.do(ctx, calls)
	defer results.Release()
	return results.Get(0), results.MayWait(0), calls[0].Unanswered
}

// boundBy bounds the wait by the longest that the limits of a decision let a call wait.
func (w *waiting) boundBy(d *pb.Decision) {
	var longest time.Duration
	for _, l := range d.GetLimits() {
		longest = max(longest, l.GetMaxWait().AsDuration())
	}
	if longest > 0 {
		w.until = min(w.until, w.began+longest)
	}
}

// keepDenial keeps the last denial, which is the answer if there is no other.
func (w *waiting) keepDenial(result *pb.Result) {
	result.GetDecision().MayWait = false
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denial = result
}

// lastDenial returns the last denial of the call, or an error if there is none.
func (w *waiting) lastDenial() *pb.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.denial == nil {
		return unavailable("the member does not let the call wait: try again")
	}
	return proto.CloneOf(w.denial)
}

// addWaited says in a decision how long the call has waited, if it does not.
func (w *waiting) addWaited(result *pb.Result, now time.Duration) {
	if d := result.GetDecision(); d != nil && d.Waited == nil {
		d.MayWait = false
		d.Waited, d.Place = durationpb.New(now-w.began), max(d.Place, 1)
	}
}
